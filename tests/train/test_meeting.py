"""Processes that were started together find one another, whatever earlier ones left in the store."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch.distributed as dist

from res3d_video.train.ranks import OFFER, meet


def tokens(store: dist.Store, *, world_size: int) -> list[str]:
    """What each rank returns; the others begin before rank 0, when only the past is in the store."""
    with ThreadPoolExecutor(world_size) as pool:
        ask = partial(meet, store, world_size=world_size, timeout_s=20)
        return list(pool.map(lambda rank: ask(rank=rank), reversed(range(world_size))))


def test_all_return_one_token_and_at_the_next_start_another() -> None:
    store, seen = dist.HashStore(), set()
    for _ in range(5):
        (token,) = set(tokens(store, world_size=3))
        seen.add(token)
    assert len(seen) == 5


@pytest.mark.parametrize("confirmed", [None, "", "somebody,else"])
def test_an_offer_of_a_dead_rank_0_is_left(confirmed: str | None) -> None:
    store = dist.HashStore()
    store.set(OFFER, "old")
    for rank in range(1, 4):
        store.set(f"{OFFER}/old/{rank}", f"dead{rank}")
    if confirmed is not None:
        store.set(f"{OFFER}/old/all", confirmed)
    (token,) = set(tokens(store, world_size=4))
    assert token != "old"


def test_who_comes_alone_gives_up() -> None:
    for rank in (0, 1):
        with pytest.raises(TimeoutError):
            meet(dist.HashStore(), rank=rank, world_size=2, timeout_s=0.1)
    store = dist.HashStore()
    store.set(OFFER, "old")
    with pytest.raises(TimeoutError):
        meet(store, rank=1, world_size=2, timeout_s=0.1)
