"""A process's place by torchrun's variables."""

import os

import pytest
import torch
import torch.distributed as dist

from res3d_video.pipeline.errors import UserError
from res3d_video.train.ranks import Ranks, from_torchrun, lost_message, process_group


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


# What torch 2.13 says, word for word but for the path before "gloo".
GLOO = {
    "[gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:54955: Connection reset by peer. This": "ended",
    "Gloo connectFullMesh failed with [gloo/transport/tcp/pair.cc:152] timed out connecting: SO_ERROR: Connection "
    "refused, remote=[127.0.0.1]:62353$0": "ended",
    "[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 4000ms for recv operation to complete": "late",
    "wait timeout after 60000ms, keys: /meeting": "late",
    "[gloo/transport/tcp/device.cc:84] unable to resolve\nsecond line": "unknown",
}


@pytest.mark.parametrize(("reason", "kind"), GLOO.items(), ids=list(GLOO.values()))
def test_what_is_said_of_a_failed_collective_is_one_line_with_the_way_out(reason: str, kind: str) -> None:
    assert (
        lost_message(reason, timeout_s=4)
        == {
            "ended": "another process has ended; see its last lines, and run the same command again",
            "late": "another process did not come within 4 s; see its last lines, or wait longer with "
            "--collective-timeout",
            "unknown": "processes cannot reach one another ([gloo/transport/tcp/device.cc:84] unable to resolve); see "
            "docs/multi-node.md",
        }[kind]
    )


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
