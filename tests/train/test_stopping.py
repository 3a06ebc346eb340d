"""When a run should stop before its end, from its first moment on."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.train.checkpoint import load_checkpoint
from res3d_video.train.config import LOCK
from res3d_video.train.stopping import INTERRUPT, STOP_SIGNALS, StopRequest
from tests.chaos.ledger import wait_until
from tests.chaos.training import ranks_of
from tests.train.conftest import CHECKOUT, NARROW, Trainer, command_line, read_metrics, weights_of
from tests.warm import Warm

OPTIONS = ["--width", "4", "--batch-size", "2", "--eval-clips", "10000", "--steps"]
Moment = Callable[[int, Path], bool]


def test_a_signal_is_remembered_and_a_process_whose_launcher_has_ended_does_not_go_on() -> None:
    for number in STOP_SIGNALS:
        before, request = signal.getsignal(number), StopRequest()
        request.begin(launcher=os.getppid())
        assert not request.asked()
        os.kill(os.getpid(), number)
        assert request.asked()
        request.close()
        assert signal.getsignal(number) is before
    request = StopRequest()
    request.begin(launcher=os.getpid())  # which is not its parent, nor anybody's whose launcher is gone
    with pytest.raises(UserError, match=r"^torchrun has ended, so this process does; run the same command again$"):
        request.asked()
    request.close()


def test_what_is_loaded_before_signals_count_is_small() -> None:
    code = "import sys; before = set(sys.modules); import res3d_video.train.stopping; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert {name.split(".")[0] for name in loaded.stdout.split()} <= {*sys.stdlib_module_names, "train", "res3d_video"}


def counts_signals(pid: int) -> bool:
    """Whether a process has handlers of its own for all of them."""
    caught = int(Path(f"/proc/{pid}/status").read_text().split("SigCgt:")[1].split()[0], 16)
    return all(caught >> (number - 1) & 1 for number in (*STOP_SIGNALS, INTERRUPT))


MOMENTS: dict[str, Moment] = {
    "started": lambda pid, _: counts_signals(pid),
    "DALI": lambda pid, _: "libdali.so" in Path(f"/proc/{pid}/maps").read_text(),
    "folder": lambda _, out: (out / LOCK).is_file(),
    "log": lambda _, out: (out / "metrics.jsonl").is_file(),
    "last evaluation": lambda _, out: (out / "latest.pt").is_file(),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_any_moment_ends_the_run_as_documented(squares: ShardIndex, tmp_path: Path, moment: str) -> None:
    started: dict[signal.Signals, Any] = {}
    steps, pipe = 1 if moment == "last evaluation" else 100000, subprocess.PIPE
    for number in (signal.SIGTERM, INTERRUPT):
        command = command_line(squares, tmp_path / number.name, *OPTIONS, str(steps))
        # When all is loaded, but for one that shows how Python itself ends.
        is_late = moment in ("folder", "last evaluation") or (moment == "log" and number == INTERRUPT)
        started[number] = (
            Warm(command) if is_late else subprocess.Popen(command, cwd=CHECKOUT, stdout=pipe, stderr=pipe, text=True)
        )
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
                assert f"stopped by a signal at step {load_checkpoint(latest)['step']} of {steps} and saved" in said
            else:
                assert number == INTERRUPT
                assert said.splitlines()[-1] == "interrupted before the run began; the same command starts it"
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
    assert "stopped by a signal at step 0 of 100000 and saved; the same command goes on from there" in said
    assert load_checkpoint(tmp_path / "latest.pt")["step"] == 0


@pytest.mark.parametrize("num_asked", [3, 4], ids=["before", "during"])
def test_an_evaluation_that_a_signal_prevents_is_made_up_for(
    run_main: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_asked: int
) -> None:
    """A run asks once at its beginning, once a step, and once a batch of an evaluation, which follows the second."""
    options, calm, stopped = [*NARROW, "--steps", "3", "--eval-every", "2"], tmp_path / "calm", tmp_path / "stopped"
    run_main(calm, *options)
    calls = itertools.count(1)
    with monkeypatch.context() as context:
        context.setattr(StopRequest, "asked", lambda self: next(calls) >= num_asked)
        assert "stopped by a signal at step 2 of 3" in run_main(stopped, *options).stdout
    assert read_metrics(stopped, "eval") == []
    run_main(stopped, *options, "--resume", "auto")
    for event in ("eval", "final"):
        assert read_metrics(stopped, event) == read_metrics(calm, event)
    for name in ("latest.pt", "best.pt"):
        assert weights_of(stopped / name)["head.weight"].equal(weights_of(calm / name)["head.weight"])
