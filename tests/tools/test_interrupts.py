"""Ctrl-C typed into a terminal while a command works: one line, no traceback, exit code 130, and nobody left behind."""

import json
import sys
from pathlib import Path

import pytest

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools import make_shards
from res3d_video.train.checkpoint import load_checkpoint
from res3d_video.train.main import main as train
from tests.terminal import CHECKOUT, CTRL_C, Terminal
from tests.tools.commands import run
from tests.tools.test_study import fakes  # noqa: F401
from tests.train.conftest import SMALL, command_line, read_metrics
from tests.until import until

CHILD = """
import time
from contextlib import contextmanager
import click
from res3d_video.tools.bench.measure import Child
from res3d_video.train.terminal import Command

@contextmanager
def serve():
    yield lambda request: "ready" if request == "first" else time.sleep(1000)

@click.command(cls=Command)
def main():
    with Child("it", serve) as child:
        print(child.ask("first"), flush=True)
        child.ask("second")

if __name__ == "__main__":
    main()
"""


def interrupt(terminal: Terminal) -> list[str]:
    """Type Ctrl-C; what is on the screen at the end, a list of lines that say something."""
    terminal.press(CTRL_C)
    assert terminal.finish() == 130, terminal.text
    assert "Traceback" not in terminal.text
    assert "Exception ignored" not in terminal.text
    return [line.strip() for line in terminal.text.splitlines() if line.strip(" \x07")]


def test_make_shards_keeps_finished_shards_and_goes_on(numbered_raw: Path, tmp_path: Path) -> None:
    options = ["folder", "--raw", str(numbered_raw), "--out", str(tmp_path), "--samples-per-shard", "1"]
    with Terminal([sys.executable, "tools/make_shards.py", *options, "--workers", "1"]) as terminal:
        until(lambda: any(tmp_path.glob("parts/*.json")), seconds=60)
        last = interrupt(terminal)[-1]
    assert last == "interrupted; run the same command again: finished shards are kept"
    assert not (tmp_path / "dataset.json").exists(), "interrupted too late to be a test"
    result = json.loads(run(make_shards.main, *options, "--json").stdout)
    assert result["num_shards_kept"] >= 1
    assert result["num_shards_written"] >= 1
    assert (result["num_samples"], result["num_quarantined"]) == (11, 0), "what Ctrl-C cut off is no broken video"


@pytest.mark.slow
def test_the_trainer_finishes_its_step_saves_and_goes_on(squares: ShardIndex, tmp_path: Path) -> None:
    with Terminal(command_line(squares, tmp_path, "--steps", "100000"), warm=True) as terminal:
        terminal.wait_for(" steps, ")
        lines = interrupt(terminal)
    step = load_checkpoint(tmp_path / "latest.pt")["step"]
    assert f"stopped by a signal at step {step} of 100000 and saved; the same command goes on from there" in lines
    assert [line["step"] for line in read_metrics(tmp_path, "train")] == list(range(1, step + 1))
    words = ["--data", squares.data_dir, "--out", tmp_path, *SMALL, "--steps", step + 1]
    lines = run(train, *words, "--resume", "auto", "--quiet").stdout.splitlines()
    assert [line.split()[0] for line in lines[-4:]] == ["clip@1", "video@1", "checkpoint", "logs"]


def test_evaluate_says_that_nothing_is_kept(squares: ShardIndex, trained: Path, tmp_path: Path) -> None:
    options = ["--checkpoint", str(trained / "latest.pt"), "--data", str(squares.data_dir), "--clips", "10000"]
    command = [sys.executable, "tools/evaluate.py", *options, "--device", "cpu", "--json", str(tmp_path / "e.json")]
    with Terminal(command, warm=True) as terminal:
        terminal.wait_for(" clips, ")
        assert interrupt(terminal)[-1] == "interrupted; nothing is kept; run the same command again"
    assert not (tmp_path / "e.json").exists()


@pytest.mark.slow
def test_a_study_lets_its_training_save(squares: ShardIndex, fakes: Path, tmp_path: Path) -> None:  # noqa: F811
    (fakes / "hold").touch()
    code = f"import pathlib, res3d_video.tools.study as s; s.CHECKOUT = pathlib.Path({str(fakes)!r}); s.main()"
    options = ["--data", str(squares.data_dir), "--tables", "3", "--steps", "5", "--out", str(tmp_path / "study")]
    (script := tmp_path / "study.py").write_text(code)
    with Terminal([sys.executable, str(script), *options, "--device", "cpu"], warm=True) as terminal:
        until(lambda: any(tmp_path.glob("study/**/begun")), seconds=60)
        assert interrupt(terminal)[-1] == "interrupted; the runs have saved; the same command goes on"
    assert len(list(tmp_path.glob("study/**/asked"))) == 1, "SIGTERM has come, once"


def test_a_process_of_a_benchmark_never_gets_ctrl_c(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(CHILD)
    with Terminal([sys.executable, str(script)], variables={"PYTHONPATH": str(CHECKOUT)}) as terminal:
        terminal.wait_for("ready")
        assert interrupt(terminal)[-1] == "interrupted; nothing is kept; run the same command again"
