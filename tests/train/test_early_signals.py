"""Signals in a trainer's first seconds: each ends it with its documented code and line, whatever it is at."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch.distributed as dist

import res3d_video.train.stopping
from res3d_video.pipeline.index import ShardIndex
from res3d_video.train.checkpoint import load_checkpoint
from res3d_video.train.config import LOCK
from res3d_video.train.ranks import meet
from res3d_video.train.stopping import INTERRUPT, STOP_SIGNALS, StopRequest
from tests.chaos.ledger import wait_until
from tests.chaos.training import ranks_of
from tests.train.conftest import CHECKOUT, command_line
from tests.warm import Warm

OPTIONS = ["--width", "4", "--batch-size", "2", "--eval-clips", "10000", "--steps"]
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
    "folder": has_written(LOCK),
    "settings": has_written("config.json"),
    "log": has_written("metrics.jsonl"),
    "first step": has_written("metrics.jsonl", num_bytes=1),
    "last evaluation": has_written("latest.pt"),
}
LOADING = ("started", "torch", "DALI")


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_any_moment_of_starting_ends_the_run_as_documented(
    squares: ShardIndex, tmp_path: Path, moment: str
) -> None:
    numbers = (*STOP_SIGNALS, INTERRUPT)
    started: dict[signal.Signals, Warm | subprocess.Popen[str]] = {}
    steps = 1 if moment == "last evaluation" else 100000
    for number in numbers:
        command = command_line(squares, tmp_path / number.name, *OPTIONS, str(steps))
        started[number] = Warm(command) if moment not in LOADING else subprocess.Popen(
            command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )  # fmt: skip
    try:
        for number, process in started.items():
            out = tmp_path / number.name
            wait_until(lambda p=process, out=out: p.poll() is not None or MOMENTS[moment](p.pid, out), moment)  # type: ignore[misc]
            process.send_signal(number)
        for number, process in started.items():
            said = "".join(process.communicate(timeout=120))
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
    with psutil.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as torchrun:
        wait_until(lambda: "1" in (found := ranks_of(torchrun)) and counts_signals(found["1"].pid), "rank 1")
        ranks_of(torchrun)["1"].send_signal(signal.SIGUSR1)
        said, _ = torchrun.communicate(timeout=120)
    assert torchrun.returncode == 0, said
    if (tmp_path / "latest.pt").exists():  # they had met
        assert "stopped by a signal at step 0 of 100000 and saved; the same command goes on from there" in said
        assert load_checkpoint(tmp_path / "latest.pt")["step"] == 0
    else:
        assert not (tmp_path / "metrics.jsonl").exists()


class EndedError(Exception):
    """Stands for the end of the process."""


def test_where_one_process_is_told_to_stop_all_that_wait_for_one_another_end(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def end(code: int) -> None:
        raise EndedError(code)

    monkeypatch.setattr(res3d_video.train.stopping.os, "_exit", end)
    store, own = dist.HashStore(), {n: signal.getsignal(n) for n in (*STOP_SIGNALS, INTERRUPT)}
    told, other = StopRequest(of_command=True), StopRequest(of_command=True)
    other.close()
    try:
        told._ask(signal.SIGTERM)  # one of three, so it is remembered
        with pytest.raises(TimeoutError):  # it has told rank 0
            meet(store, rank=2, world_size=3, timeout_s=0.1, stop=told)
        for rank, stop in ((0, other), (1, other), (2, told)):
            with pytest.raises(EndedError, match="^0$"):
                meet(store, rank=rank, world_size=3, timeout_s=60, stop=stop)
        with pytest.raises(TimeoutError):  # a restart
            meet(store, rank=0, world_size=3, timeout_s=0.1, stop=other, start="1")
        with pytest.raises(EndedError, match="^130$"):
            told._ask(signal.SIGINT)
    finally:
        for number, handler in own.items():
            signal.signal(number, handler)
    line = "{} before the run began; the same command starts it"
    expected = [line.format(what) for what in ("stopped by a signal",) * 3 + ("interrupted",)]
    assert capfd.readouterr().err.splitlines() == expected
