"""A process's place by torchrun's variables."""

import pytest
import torch

from train.ranks import Ranks, from_torchrun


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert from_torchrun("cpu") == Ranks(0, 0, 1, torch.device("cpu"))


def test_torchruns_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    ranks = from_torchrun("cpu")
    assert (ranks.rank, ranks.local_rank, ranks.world_size, ranks.is_main) == (5, 1, 8, False)


def test_more_processes_than_gpus_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", str(torch.cuda.device_count()))
    with pytest.raises(ValueError, match=r"needs a GPU of its own but torch sees \d+; start fewer"):
        from_torchrun("cuda")


def test_alone_every_collective_gives_back_what_it_got() -> None:
    ranks = Ranks()
    assert ranks.sum(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]
    assert (ranks.any(True), ranks.any(False), ranks.gather("x")) == (True, False, ["x"])
