"""A process's place by torchrun's variables."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
import torch.distributed as dist

from res3d_video.pipeline.errors import UserError
from res3d_video.train.ranks import OFFER, Ranks, from_torchrun, meet, process_group


def test_torchruns_variables_are_read_and_without_them_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    alone = from_torchrun("cpu")
    assert alone == Ranks(0, 0, 1, torch.device("cpu"))
    assert alone.sum(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]
    assert (alone.any(True), alone.any(False), alone.gather("x")) == (True, False, ["x"])
    variables = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "x", "GROUP_WORLD_SIZE": "3"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert from_torchrun("cpu") == Ranks(5, 1, 8, launcher=os.getppid(), num_machines=3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"needs a GPU of its own but torch sees 1; start fewer"):
        from_torchrun("cuda")


def test_only_errors_of_collectives_become_errors_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("res3d_video.train.ranks.rendezvous", lambda *_, **__: iter([(dist.HashStore(), 0, 1)]))
    monkeypatch.setattr("res3d_video.train.ranks.meet", lambda *_, **__: "token")
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    for message, expected in (("gloo: Connection closed by peer", UserError), ("x", RuntimeError)):
        with pytest.raises((RuntimeError, UserError)) as caught, process_group(Ranks(world_size=2)):
            raise RuntimeError(message)
        assert type(caught.value) is expected


def tokens(store: dist.Store, *, world_size: int) -> list[str]:
    """What each rank returns; the others begin before rank 0, when only the past is in the store."""
    with ThreadPoolExecutor(world_size) as pool:
        ask = partial(meet, store, world_size=world_size, timeout_s=20)
        return list(pool.map(lambda rank: ask(rank=rank), reversed(range(world_size))))


def test_all_return_one_token_and_at_the_next_start_another() -> None:
    store = dist.HashStore()
    starts = [set(tokens(store, world_size=3)) for _ in range(5)]
    assert ([len(start) for start in starts], len(set.union(*starts))) == ([1] * 5, 5)


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
    old = dist.HashStore()
    old.set(OFFER, "old")
    for rank, store in ((0, dist.HashStore()), (1, dist.HashStore()), (1, old)):
        with pytest.raises(TimeoutError):
            meet(store, rank=rank, world_size=2, timeout_s=0.1)
