"""Signals in a trainer's first seconds: each ends it with its documented code and line, whatever it is at."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch.distributed as dist

import train.stopping
from pipeline.shard import ShardIndex
from tests.chaos.ledger import wait_until
from tests.chaos.training import ranks_of
from tests.train.conftest import CHECKOUT, command_line
from train.checkpoint import load_checkpoint
from train.meeting import meet
from train.stopping import INTERRUPT, STOP_SIGNALS, StopRequest

OPTIONS = ["--width", "4", "--batch-size", "2", "--eval-clips", "100000", "--steps"]
Moment = Callable[[int, Path], bool]


def counts_signals(pid: int) -> bool:
    """Whether a process has handlers of its own for all of them."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return all(caught >> (number - 1) & 1 for number in (*STOP_SIGNALS, INTERRUPT))


def has_loaded(library: str) -> Moment:
    return lambda pid, _: library in Path(f"/proc/{pid}/maps").read_text()


def has_written(name: str, *, num_bytes: int = 0) -> Moment:
    return lambda _, out: (out / name).is_file() and (out / name).stat().st_size >= num_bytes


MOMENTS: dict[str, Moment] = {
    "started": lambda pid, _: counts_signals(pid),
    "torch": has_loaded("libtorch_cpu"),
    "DALI": has_loaded("libdali.so"),
    "folder": has_written(train.run_folder.LOCK),
    "settings": has_written("config.json"),
    "log": has_written("metrics.jsonl"),
    "first step": has_written("metrics.jsonl", num_bytes=1),
    "last evaluation": has_written("latest.pt"),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_any_moment_of_starting_ends_the_run_as_documented(
    squares: ShardIndex, tmp_path: Path, moment: str
) -> None:
    numbers = (*STOP_SIGNALS, INTERRUPT)
    started, steps = {}, 1 if moment == "last evaluation" else 100000
    for number in numbers:
        out = tmp_path / number.name
        started[number] = subprocess.Popen(
            command_line(squares, out, *OPTIONS, str(steps)), cwd=CHECKOUT, env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    try:
        for number, process in started.items():
            out = tmp_path / number.name
            wait_until(lambda pid=process.pid, out=out: MOMENTS[moment](pid, out), moment)  # type: ignore[misc]
            process.send_signal(number)
        for number, process in started.items():
            said, _ = process.communicate(timeout=120)
            assert process.returncode == (130 if number == INTERRUPT else 0), said
            assert "Traceback" not in said
            assert "Exception ignored" not in said
            latest = tmp_path / number.name / "latest.pt"
            if latest.exists():
                step = load_checkpoint(latest)["step"]
                assert f"stopped by a signal at step {step} of {steps} and saved" in said
            else:
                what = "interrupted" if number == INTERRUPT else "stopped by a signal"
                assert said.splitlines()[-1] == f"{what} before the run began; the same command starts it"
    finally:
        for process in started.values():
            process.kill()
            process.wait()


@pytest.mark.slow
def test_an_early_signal_to_one_of_two_processes_stops_both(squares: ShardIndex, tmp_path: Path) -> None:
    command = command_line(squares, tmp_path, *OPTIONS, "100000", processes=2)
    with psutil.Popen(
        command, cwd=CHECKOUT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True
    ) as torchrun:
        wait_until(lambda: "1" in (found := ranks_of(torchrun)) and counts_signals(found["1"].pid), "rank 1")
        ranks_of(torchrun)["1"].send_signal(signal.SIGUSR1)
        said, _ = torchrun.communicate(timeout=120)
    assert torchrun.returncode == 0, said
    assert "stopped by a signal at step 0 of 100000 and saved; the same command goes on from there" in said
    assert load_checkpoint(tmp_path / "latest.pt")["step"] == 0


class EndedError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_told_to_stop_does_not_wait_for_the_others_for_ever(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], rank: int
) -> None:
    def end(code: int) -> None:
        raise EndedError(code)

    monkeypatch.setattr(train.stopping, "OTHERS_S", 0)
    monkeypatch.setattr(train.stopping.os, "_exit", end)
    before = signal.getsignal(signal.SIGTERM)
    stop = StopRequest(of_command=True)
    try:
        os.kill(os.getpid(), signal.SIGTERM)  # one of two, so it is remembered
        with pytest.raises(EndedError, match="^0$"):
            meet(dist.HashStore(), rank=rank, world_size=2, timeout_s=60, while_waiting=stop.while_waiting)
        with pytest.raises(EndedError, match="^130$"):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        for number, handler in stop._handlers.items():
            signal.signal(number, handler)
    assert signal.getsignal(signal.SIGTERM) is before
    assert capfd.readouterr().err.splitlines() == [
        "stopped by a signal before the run began; the same command starts it",
        "interrupted before the run began; the same command starts it",
    ]
