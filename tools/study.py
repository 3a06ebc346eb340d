#!/usr/bin/env python3
"""The paper's architecture study: Tables 3 to 7 from a folder of shards, with a verdict on each claim."""

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypedDict

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

from res3d_video.train.stopping import end_at_ctrl_c

end_at_ctrl_c(__name__)

import click

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.shard_writer import to_json, write_atomically
from res3d_video.pipeline.typed_json import Text, read_json
from res3d_video.tools.figures.plots import load_matplotlib
from res3d_video.tools.study_report import collect, table_lines, write_report
from res3d_video.train.data_options import LOCAL_DATA
from res3d_video.train.evaluation.confusion import SCORES
from res3d_video.train.paper.study import StudyRun, StudySettings, plan_run, read_scores, unique_runs
from res3d_video.train.paper.tables import TABLES
from res3d_video.train.terminal import BATCH, CLIPS, COUNT, QUIET, Command, Failed, Number, progress

CHECKOUT = Path(__file__).resolve().parents[1]
DEFAULTS: dict[str, dict[str, Any]] = {  # a CPU gets networks that it can train; None is the paper's
    "cuda": {"batch_size": None, "size": 112, "width_scale": 1.0, "seeds": 3},
    "cpu": {"batch_size": 8, "size": 56, "width_scale": 0.125, "seeds": 1},
}
STUDY, LOG = "study.json", "log.txt"


class StudyFile(TypedDict):
    """What is read of study.json."""

    settings: dict[str, Any]
    shards: list[Text]


EPILOG = """\b
Examples:
  python tools/study.py --data shards/ucf101 --out runs/study
  python tools/study.py --tables 3,4 --data shards/ucf101 --steps 3000 --seeds 3 --out runs/study
  python tools/study.py --tables 5 --data shards/ucf101 --data shards/ucf101-256 --steps 30 --out runs/resolution
\b
Without --steps, --batch-size, --lr, --size and --width-scale, and on a GPU, this is the paper's protocol: 90,000 steps
of 20 clips, from scratch, split 1. On a CPU networks and pictures are smaller, and the report says so.
Every run is train/main.py and tools/evaluate.py in a folder of its own; its log.txt has the two commands. The same
study command goes on where it was stopped or killed, and may have more tables and more seeds.
Table 5 needs frames of 256 pixels: give shards of several stored sizes; smaller frames are enlarged, with a note.
"""


@click.command(
    cls=Command,
    go_on="the runs have saved; the same command goes on",
    context_settings={"max_content_width": 110, "show_default": True},
    epilog=EPILOG,
)
@click.option(
    "--data", "folders", required=True, multiple=True, type=LOCAL_DATA,
    help="Folder of shards; again for the same videos at another stored size.",
)  # fmt: skip
@click.option(
    "--out", default=Path("runs/study"), type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the study: its runs, tables and plots.",
)  # fmt: skip
@click.option("--tables", default="3,4,5,6,7", help="Which of the paper's tables.")
@click.option("--steps", type=COUNT, help="Of every run; the schedule keeps its shape.  [default: 90000]")
@click.option("--seeds", type=COUNT, help="Runs of each row.  [default: 3; on a CPU 1]")
@click.option("--batch-size", type=BATCH, help="Clips of a step.  [default: 20; on a CPU 8]")
@click.option("--lr", type=Number(0, 1000, min_open=True), help="Learning rate; nothing rescales it.  [default: 0.01]")
@click.option(
    "--size", type=click.IntRange(16, 4096),
    help="Crop in pixels where the paper has 112; the other sizes follow.  [default: 112; on a CPU 56]",
)  # fmt: skip
@click.option(
    "--width-scale", type=Number(0, 1e9, min_open=True),
    help="Channels, as a part of the paper's.  [default: 1; on a CPU 0.125]",
)  # fmt: skip
@click.option("--clips", default=10, type=CLIPS, help="Of each test video; all are scored.")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]), help="One run a GPU, or the CPU.")
@click.option("--list", "only_list", is_flag=True, help="List the runs and whether they are done; run nothing.")
@click.option("--report", "only_report", is_flag=True, help="Tables and plots of what is done; run nothing.")
@QUIET
def main(
    *,
    folders: tuple[Path, ...],
    out: Path,
    tables: str,
    seeds: int | None,
    device: str,
    only_list: bool,
    only_report: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Run the paper's architecture study, Tables 3 to 7, and say which of its claims are seen."""
    numbers = [number for number in TABLES if str(number) in tables.split(",")]
    if unknown := sorted(set(tables.split(",")) - {str(number) for number in numbers}):
        raise click.UsageError(f"--tables: {unknown[0]} is not among {', '.join(map(str, TABLES))}")
    import torch  # takes seconds: help does not wait for it

    load_matplotlib()  # fails here, not after the work
    kind = "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"
    indexes = [open_index(folder.resolve()) for folder in folders]
    check_same_videos(indexes)
    settings = settings_of(options, indexes[0], kind=kind)
    planned = {
        (number, row.name, seed): plan_run(row, seed=seed, settings=settings, indexes=indexes)
        for number in numbers
        for row in TABLES[number].rows
        for seed in range(seeds or DEFAULTS[kind]["seeds"])
    }
    runs, out = unique_runs(list(planned.values())), out.resolve()
    todo = [run for run in runs if read_scores(out, run) is None]
    if only_list:
        for run in runs:
            click.echo(f"{'to do' if run in todo else 'done':5}  {run.folder}")
        click.echo(f"{len(runs)} runs, {len(todo)} to do, {sum(run.config.steps for run in todo):,} steps")
        return
    check_same_study(out, settings, indexes)
    failures = []
    if not only_report:
        failures = Trainings(out, kind=kind, clips=settings.clips).work(todo, quiet=quiet)
    findings = collect(planned, settings, indexes, out=out)
    write_report(out, findings)
    for number in numbers:
        for line in table_lines(number, findings):
            click.echo(line)
        click.echo("")
    for line in [f"note: {note}" for note in findings.notes]:
        click.echo(line)
    click.echo(f"report {out / 'study.md'}")
    if failures:
        raise Failed(f"{len(failures)} of {len(runs)} runs failed; the first: {failures[0]}")


def settings_of(options: dict[str, Any], index: ShardIndex, *, kind: str) -> StudySettings:
    """The command line with this device's defaults."""
    given = {name: value for name, value in options.items() if value is not None}
    reduced = {name: value for name, value in DEFAULTS[kind].items() if name != "seeds"}
    split = "1" if "1" in index.split_names else index.split_names[0]
    return replace(StudySettings(split=split), **{**reduced, **given})


def check_same_videos(indexes: Sequence[ShardIndex]) -> None:
    """
    Raises:
        UserError: The folders hold different datasets.
    """
    first = indexes[0]
    for other in indexes[1:]:
        if (other.name, other.classes, other.num_samples) != (first.name, first.classes, first.num_samples):
            raise UserError(f"{other.data_dir}: not the videos of {first.data_dir}; give one dataset at several sizes")


def check_same_study(out: Path, settings: StudySettings, indexes: Sequence[ShardIndex]) -> None:
    """Begin a study, or make sure that the one in this folder is the same; tables and seeds may be added.

    Raises:
        UserError: It has other settings or shards.
    """
    described, shards = asdict(settings), sorted(index.fingerprint for index in indexes)
    path = out / STUDY
    if not path.is_file():
        write_atomically(path, to_json({"settings": described, "shards": shards}))
        return
    before = read_json(path, StudyFile, what="a study", way_out="choose another --out")
    differing = [name for name, value in described.items() if before["settings"].get(name) != value]
    differing += [] if before["shards"] == shards else ["shards"]
    if differing:
        was = before["settings"].get(differing[0], "other ones")
        raise UserError(f"{out}: holds a study with another {differing[0]} ({was}); choose another --out")


class Trainings:
    """Trains and scores runs as the commands do by hand: train/main.py, then tools/evaluate.py, in a run's folder.

    One at a time on each GPU, or on the CPU. A run that was cut off goes on from its last checkpoint.

    Args:
        out: Folder of the study.
        clips: Of each test video.
        gpus: As CUDA_VISIBLE_DEVICES names them; "" is the CPU. None: all there are.
    """

    def __init__(self, out: Path, *, kind: str, clips: int, gpus: Sequence[str] | None = None) -> None:
        if gpus is None:
            import torch

            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
            gpus = visible.split(",") if kind == "cuda" else [""]
        self._out, self._kind, self._clips, self._num_gpus = out, kind, clips, len(gpus)
        self._free: SimpleQueue[str] = SimpleQueue()
        for gpu in gpus:
            self._free.put(gpu)
        self._lock, self._children, self._stopped = threading.Lock(), set[subprocess.Popen](), False

    def work(self, runs: Sequence[StudyRun], *, quiet: bool) -> list[str]:
        """Do the runs; the reasons of those that failed, a line each.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM came; the trainings have saved by then.
        """

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        before, failures = signal.signal(signal.SIGTERM, interrupt), []
        try:
            with progress("study", unit="runs", quiet=quiet) as tell, ThreadPoolExecutor(self._num_gpus) as threads:
                waiting = {threads.submit(self._do, run): run for run in runs}
                try:
                    for num_done, future in enumerate(as_completed(waiting), start=1):
                        if (reason := future.result()) is not None:
                            failures.append(reason)
                            click.echo(f"failed: {reason}", err=True)
                        tell(num_done, len(runs), str(waiting[future].folder), failed=len(failures))
                finally:
                    threads.shutdown(wait=False, cancel_futures=True)
                    self.stop()
        finally:
            signal.signal(signal.SIGTERM, before)
        return failures

    def stop(self) -> None:
        """Ask the trainings to save and end, as torchrun would; no other begins."""
        with self._lock:
            self._stopped = True
            for child in self._children:
                child.send_signal(signal.SIGTERM)

    def _do(self, run: StudyRun) -> str | None:
        """Train and score a run; why it failed."""
        folder = self._out / run.folder
        scores = ["--checkpoint", folder / "latest.pt", "--data", run.data, "--clips", self._clips]
        commands = [
            ["train/main.py", *run.arguments(self._out)],
            ["tools/evaluate.py", *map(str, scores), "--json", str(folder / SCORES)],
        ]
        gpu = self._free.get()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for command in commands:
                if not self._call([*command, "--device", self._kind], log=folder / LOG, gpu=gpu):
                    return f"{folder / LOG}: {last_line(folder / LOG)}"
        except OSError as error:
            return f"{run.folder}: {error}"
        finally:
            self._free.put(gpu)
        return None if read_scores(self._out, run) is not None else f"{run.folder}: stopped before its end"

    def _call(self, words: list[str], *, log: Path, gpu: str) -> bool:
        """Run a command to its end; whether it succeeded, and nobody has asked to stop."""
        with log.open("ab") as file:
            with self._lock:
                if self._stopped:
                    return False
                environment = {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
                command = [sys.executable, *words]  # by path: a checkout need not be installed
                shown = shlex.join([*(f"{name}={value}" for name, value in environment.items()), *command])
                file.write(f"$ {shown}\n".encode())
                file.flush()
                child = subprocess.Popen(
                    command, cwd=CHECKOUT, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=file,
                    stderr=file, start_new_session=True,  # Ctrl-C is for this process, which asks them to save
                )  # fmt: skip
                self._children.add(child)
            code = child.wait()
            with self._lock:
                self._children.discard(child)
                return code == 0 and not self._stopped


def last_line(path: Path) -> str:
    """The last line of a log that says something."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


if __name__ == "__main__":
    main()
