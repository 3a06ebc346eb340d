"""A process's place by torchrun's variables."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
import torch.distributed as dist

from res3d_video.pipeline.errors import UserError
from res3d_video.train.ranks import OFFER, Ranks, from_torchrun, meet, process_group


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert from_torchrun("cpu") == Ranks(0, 0, 1, torch.device("cpu"))


def test_torchruns_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    ranks = from_torchrun("cpu")
    assert (ranks.rank, ranks.local_rank, ranks.world_size, ranks.is_main) == (5, 1, 8, False)


def test_under_torchrun_its_process_and_the_number_of_machines_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "GROUP_WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    ranks = from_torchrun("cpu")
    assert (ranks.launcher, ranks.num_machines) == (os.getppid(), 3)


def test_only_errors_of_collectives_become_errors_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("res3d_video.train.ranks.rendezvous", lambda *_, **__: iter([(dist.HashStore(), 0, 1)]))
    monkeypatch.setattr("res3d_video.train.ranks.meet", lambda *_, **__: "token")
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    for error, expected in (
        (RuntimeError("gloo: Connection closed by peer"), UserError),
        (RuntimeError("x"), RuntimeError),
    ):
        with pytest.raises((RuntimeError, UserError)) as caught, process_group(Ranks(world_size=2)):
            raise error
        assert type(caught.value) is expected


def test_more_processes_than_gpus_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match=r"needs a GPU of its own but torch sees 2; start fewer"):
        from_torchrun("cuda")


def test_alone_every_collective_gives_back_what_it_got() -> None:
    ranks = Ranks()
    assert ranks.sum(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]
    assert (ranks.any(True), ranks.any(False), ranks.gather("x")) == (True, False, ["x"])


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
