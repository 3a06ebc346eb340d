#!/usr/bin/env python3
"""The paper's architecture study: Tables 3 to 7 from a folder of shards, with a verdict on each claim."""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

from res3d_video.train.stopping import end_at_ctrl_c

end_at_ctrl_c(__name__)

import click
import torch

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.shard_writer import to_json, write_atomically
from res3d_video.pipeline.typed_json import Text, read_json
from res3d_video.tools.bench.chart import load_matplotlib
from res3d_video.tools.bench.measure import BenchError
from res3d_video.tools.bench.options import Numbers
from res3d_video.tools.study_findings import collect
from res3d_video.tools.study_pool import Pool, Slot
from res3d_video.tools.study_report import table_lines, write_report
from res3d_video.train.bounds import BATCH, CLIPS, COUNT, THREADS, Number
from res3d_video.train.data_options import LOCAL_DATA
from res3d_video.train.study.results import is_done
from res3d_video.train.study.runs import StudyRun, StudySettings, plan_run, unique_runs
from res3d_video.train.study.tables import TABLES
from res3d_video.train.terminal import QUIET, Command, Failed, progress

CHECKOUT = Path(__file__).resolve().parents[1]
DEFAULTS: dict[str, dict[str, Any]] = {  # a CPU gets networks that it can train; None is the paper's
    "cuda": {"batch_size": None, "size": 112, "width_scale": 1.0, "seeds": 3},
    "cpu": {"batch_size": 8, "size": 56, "width_scale": 0.125, "seeds": 1},
}
STUDY = "study.json"


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
    "--data",
    "folders",
    required=True,
    multiple=True,
    type=LOCAL_DATA,
    help="Folder of shards; again for the same videos at another stored size.",
)
@click.option(
    "--out",
    default=Path("runs/study"),
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the study: its runs, tables and pictures.",
)
@click.option("--tables", default="3,4,5,6,7", type=Numbers(), help="Which of the paper's tables.")
@click.option("--steps", type=COUNT, help="Of every run; the schedule keeps its shape.  [default: 90000]")
@click.option("--seeds", type=COUNT, help="Runs of each row.  [default: 3; on a CPU 1]")
@click.option("--batch-size", type=BATCH, help="Clips of a step.  [default: 20; on a CPU 8]")
@click.option(
    "--lr", type=Number(0, 1000, min_open=True), help="Base learning rate; nothing rescales it.  [default: 0.01]"
)
@click.option(
    "--size",
    type=click.IntRange(16, 4096),
    help="Crop in pixels where the paper has 112; the other sizes follow.  [default: 112; on a CPU 56]",
)
@click.option(
    "--width-scale",
    type=Number(0, 1e9, min_open=True),
    help="Channels, as a part of the paper's.  [default: 1; on a CPU 0.125]",
)
@click.option("--flip/--no-flip", default=True, help="Mirror half of the training clips.")
@click.option("--split", help="Split of the dataset.  [default: 1, else its first]")
@click.option("--clips", default=10, type=CLIPS, help="Of each test video; all are scored.")
@click.option("--jobs", type=THREADS, help="Runs at a time.  [default: one a GPU; on a CPU 1]")
@click.option("--num-threads", default=2, type=THREADS, help="Decoding threads of a run.")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to run.")
@click.option("--list", "only_list", is_flag=True, help="List the runs and whether they are done; run nothing.")
@click.option("--report", "only_report", is_flag=True, help="Tables and pictures of what is done; run nothing.")
@QUIET
def main(
    *,
    folders: tuple[Path, ...],
    out: Path,
    tables: tuple[int, ...],
    seeds: int | None,
    jobs: int | None,
    num_threads: int,
    device: str,
    only_list: bool,
    only_report: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Run the paper's architecture study, Tables 3 to 7, and say which of its claims are seen."""
    if unknown := sorted(set(tables) - set(TABLES)):
        raise click.UsageError(f"--tables: {unknown[0]} is not among {', '.join(map(str, TABLES))}")
    load_matplotlib()  # fails here, not after the work
    load_scipy()
    kind = "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"
    indexes = [open_index(folder.resolve()) for folder in folders]
    check_same_videos(indexes)
    settings = settings_of(options, indexes[0], kind=kind)
    num_seeds = seeds or DEFAULTS[kind]["seeds"]
    numbers = [number for number in TABLES if number in tables]
    planned = {
        (number, row.name, seed): plan_run(row, seed=seed, settings=settings, indexes=indexes)
        for number in numbers
        for row in TABLES[number].rows
        for seed in range(num_seeds)
    }
    runs = unique_runs(list(planned.values()))
    out = out.resolve()
    if only_list:
        for line in list_lines(runs, out):
            click.echo(line)
        return
    check_same_study(out, settings, indexes)
    failures = []
    if not only_report:
        slots = slots_of(kind, jobs=jobs, num_threads=num_threads)
        failures = work(runs, Pool(out, clips=settings.clips, checkout=CHECKOUT, slots=slots), quiet=quiet)
    findings = collect(planned, numbers, settings, indexes, out=out)
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


def load_scipy() -> None:
    """
    Raises:
        BenchError: It is not installed.
    """
    try:
        import scipy.stats  # noqa: F401
    except ImportError:
        raise BenchError('scipy is not installed; pip install "res3d-video[bench,features]"') from None


def settings_of(options: dict[str, Any], index: ShardIndex, *, kind: str) -> StudySettings:
    """The command line with this device's defaults."""
    given = {name: value for name, value in options.items() if value is not None}
    given.setdefault("split", "1" if "1" in index.split_names else index.split_names[0])
    reduced = {name: value for name, value in DEFAULTS[kind].items() if name != "seeds"}
    return replace(StudySettings(), **{**reduced, **given})


def check_same_videos(indexes: Sequence[ShardIndex]) -> None:
    """
    Raises:
        ValueError: The folders hold different datasets.
    """
    first = indexes[0]
    for other in indexes[1:]:
        if (other.name, other.classes, other.num_samples) != (first.name, first.classes, first.num_samples):
            raise UserError(f"{other.data_dir}: not the videos of {first.data_dir}; give one dataset at several sizes")


def check_same_study(out: Path, settings: StudySettings, indexes: Sequence[ShardIndex]) -> None:
    """Begin a study, or make sure that the one in this folder is the same; tables and seeds may be added.

    Raises:
        ValueError: It has other settings or shards.
    """
    described, shards = settings.describe(), sorted(index.fingerprint for index in indexes)
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


def slots_of(kind: str, *, jobs: int | None, num_threads: int) -> list[Slot]:
    """Where runs can go: a GPU each, or some at a time on the CPUs, which share them."""
    if kind == "cuda":
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        names = gpus.split(",")
        chosen = [names[i % len(names)] for i in range(jobs or len(names))]
        return [Slot({"CUDA_VISIBLE_DEVICES": gpu}, "cuda", num_threads) for gpu in chosen]
    jobs = jobs or 1
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    return [Slot({"OMP_NUM_THREADS": str(threads)}, "cpu", num_threads)] * jobs


def list_lines(runs: Sequence[StudyRun], out: Path) -> list[str]:
    """A line a run, and their number."""
    done = [is_done(out, run) for run in runs]
    lines = [f"{'done' if d else 'to do':5}  {run.folder}" for run, d in zip(runs, done, strict=True)]
    steps = sum(run.config.steps for run, d in zip(runs, done, strict=True) if not d)
    return [*lines, f"{len(runs)} runs, {len(runs) - sum(done)} to do, {steps:,} steps"]


def work(runs: Sequence[StudyRun], pool: Pool, *, quiet: bool) -> list[str]:
    """Do the runs that are not done; reasons of those that failed.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM came; the trainings have saved by then.
    """
    failures: list[str] = []

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with progress("study", unit="runs", quiet=quiet) as tell:
            ended = pool.work(runs, say=lambda line: click.echo(line, err=True))
            for num_done, finished in enumerate(ended, start=1):
                if finished.failed is not None:
                    failures.append(finished.failed)
                    click.echo(f"failed: {finished.failed}", err=True)
                tell(num_done, len(runs), str(finished.run.folder), failed=len(failures))
    finally:
        signal.signal(signal.SIGTERM, before)
    return failures


if __name__ == "__main__":
    main()
