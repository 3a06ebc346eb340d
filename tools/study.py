#!/usr/bin/env python3
"""The paper's architecture study: trains the rows of Tables 3 to 7, and gives a verdict on each claim."""

import asyncio
import csv
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

import click

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.shard_writer import to_json, write_atomically
from res3d_video.pipeline.typed_json import read_json
from res3d_video.tools.bench.machine import machine, machine_lines, markdown
from res3d_video.tools.plots import draw_table, load_matplotlib
from res3d_video.train.data_options import LOCAL_DATA
from res3d_video.train.evaluation import SCORES, percent
from res3d_video.train.paper.study import (
    NUM_CLIPS,
    TABLES,
    Row,
    RunScores,
    StudyRun,
    StudySettings,
    judge,
    plan_run,
    read_scores,
)
from res3d_video.train.terminal import BATCH, COUNT, QUIET, SIDE, Command, Failed, Number, progress

CHECKOUT = Path(__file__).resolve().parents[1]
PAPER = StudySettings()
ON_A_CPU = StudySettings(batch_size=8, size=56, width_scale=0.125)  # networks that it can train
HEADER = ["row", "network", "parameters", "multiply-adds", "runs", "clip accuracy", "video@1", "paper"]
HOW = """\
Clip accuracy is over all evenly spaced clips of the test videos, in percent: mean ± standard deviation over seeds.
A claim is "seen" if all of its comparisons are clear, and "not seen" if one of them is clearly the other way round.
A comparison is clear if each run of one row is more accurate than each run of the other, with two seeds or more."""
LEAST_LEARNED = 0.05  # above chance; below it there is nothing to compare

EPILOG = """\b
Examples:
  python tools/study.py --data shards/ucf101 --out runs/study
  python tools/study.py --tables 3,4 --data shards/ucf101 --steps 3000 --seeds 3 --out runs/study
  python tools/study.py --tables 5 --data shards/ucf101 --data shards/ucf101-256 --steps 30 --out runs/resolution

\b
On a GPU, the defaults are the paper's protocol: 90,000 steps of 20 clips, from scratch, split 1. On a CPU, networks
and frames are smaller, and the report says so.
Each run is train/main.py and tools/evaluate.py in a folder of its own, whose log.txt has both commands. If the study is
stopped or killed, the same command continues it; it can also ask for more tables and seeds.
Table 5 needs frames of 256 pixels: give shards of several stored sizes. Smaller frames are enlarged, with a note.
"""


@click.command(
    cls=Command,
    go_on="the runs have saved; the same command goes on",
    context_settings={"max_content_width": 110, "show_default": True},
    epilog=EPILOG,
)
@click.option(
    "--data", "folders", required=True, multiple=True, type=LOCAL_DATA,
    help="Folder of shards; repeat for the same videos at other stored sizes.",
)  # fmt: skip
@click.option(
    "--out", default=Path("runs/study"), type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the runs, tables and plots.",
)  # fmt: skip
@click.option("--tables", default="3,4,5,6,7", help="Tables of the paper to run.")
@click.option("--steps", type=COUNT, help="Steps per run; the schedule is scaled to it.  [default: 90000]")
@click.option("--seeds", type=COUNT, help="Runs per row.  [default: 3; on a CPU 1]")
@click.option("--batch-size", type=BATCH, help="Clips per step.  [default: 20; on a CPU 8]")
@click.option("--lr", type=Number(0, 1000, min_open=True), help="Learning rate.  [default: 0.01]")
@click.option("--size", type=SIDE, help="Crop in place of the paper's 112; scales all sizes.  [default: 112; CPU: 56]")
@click.option(
    "--width-scale",
    type=Number(0, 100, min_open=True),
    help="Factor for the channels of all networks.  [default: 1; CPU: 0.125]",
)
@click.option(
    "--device",
    default="auto",
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Where to run; on GPUs, one run on each.",
)
@click.option("--report", "only_report", is_flag=True, help="Only write tables and plots of the finished runs.")
@QUIET
def main(
    *,
    folders: tuple[Path, ...],
    out: Path,
    tables: str,
    seeds: int | None,
    device: str,
    only_report: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Run the paper's architecture study, Tables 3 to 7, and report which of its claims are seen."""
    numbers = [number for number in TABLES if str(number) in tables.split(",")]
    if unknown := sorted(set(tables.split(",")) - set(map(str, numbers))):
        raise click.UsageError(f"--tables must be some of {', '.join(map(str, TABLES))}, got {unknown[0]}")
    import torch  # slow to import: --help does not wait for it

    load_matplotlib()  # fails here, not after the work
    kind = "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"
    indexes = [open_index(folder.resolve()) for folder in folders]
    given = {name: value for name, value in options.items() if value is not None}
    settings = replace(PAPER if kind == "cuda" else ON_A_CPU, **given)
    all_seeds = range(seeds or (3 if kind == "cuda" else 1))
    planned = {
        (number, row): [plan_run(row, seed=seed, settings=settings, indexes=indexes) for seed in all_seeds]
        for number in numbers
        for row in TABLES[number].rows
    }
    out = out.resolve()
    check_same_study(out, settings, indexes)
    # Rows of several tables can share a run. All runs of a seed come before those of the next seed.
    found = {run.folder: run for of_row in planned.values() for run in of_row}
    runs = sorted(found.values(), key=lambda run: run.seed)
    failures: list[str] = []
    if not only_report:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        todo = [run for run in runs if read_scores(out, run) is None]
        gpus = visible.split(",") if kind == "cuda" else [""]
        failures = train_all(todo, out=out, gpus=gpus, device=kind, quiet=quiet)
    rows = [
        RowRuns(number, row, of_row, [scores for run in of_row if (scores := read_scores(out, run)) is not None])
        for (number, row), of_row in planned.items()
    ]
    num_test = len(indexes[0].samples_of(runs[0].config.split, "test"))
    about = (
        f"{indexes[0].name}, split {runs[0].config.split}: {num_test} test samples, {runs[0].config.steps:,} steps of "
        f"{runs[0].config.global_batch_size} clips, crop {settings.size} for 112, width × {settings.width_scale:g}"
    )
    click.echo(write_report(out, about, rows, settings_notes(rows, settings)))
    click.echo(f"report {out / 'study.md'}")
    if failures:
        raise Failed(f"{len(failures)} of {len(runs)} runs failed; the first: {failures[0]}")


class RowRuns(NamedTuple):
    """A row of a table of the paper, its runs, one per seed, and the scores of those that are finished."""

    number: int
    row: Row
    runs: list[StudyRun]
    scores: list[RunScores]

    @property
    def accuracies(self) -> list[float]:
        """Clip accuracy of each finished run, 0 to 1."""
        return [scores["all_clips_at_1"] for scores in self.scores]

    @property
    def cells(self) -> list[str]:
        """The columns of HEADER; accuracies in percent."""
        row, run, num_runs = self.row, self.runs[0], len(self.scores)
        shares = self.accuracies, [scores["video_at_1"] for scores in self.scores]
        found = [percent(values) if values else "–" for values in shares]
        cost = [f"{run.parameters:,}", f"{run.multiply_adds / 1e6:,.0f}M"]
        return [row.name, row.model, *cost, str(num_runs), *found, "–" if row.paper is None else f"{row.paper:.1f}"]


def check_same_study(out: Path, settings: StudySettings, indexes: Sequence[ShardIndex]) -> None:
    """Start a study, or check that the folder holds the same one; tables and seeds may differ.

    Raises:
        UserError: Settings or shards differ, or the shards are of different videos.
    """
    first = indexes[0]
    for other in indexes[1:]:
        if (other.name, other.classes, other.num_samples) != (first.name, first.classes, first.num_samples):
            raise UserError(f"{other.data_dir}: not the videos of {first.data_dir}; give one dataset at several sizes")
    path, ours = out / "study.json", asdict(settings) | {"shards": sorted(index.fingerprint for index in indexes)}
    if not path.is_file():
        write_atomically(path, to_json(ours))
        return
    theirs = read_json(path, dict[str, Any], what="a study", way_out="choose another --out")
    if differing := [name for name in ours if theirs.get(name) != ours[name]]:
        raise UserError(f"{out}: holds a study with other {', '.join(differing)}; choose another --out")


def train_all(runs: Sequence[StudyRun], *, out: Path, gpus: Sequence[str], device: str, quiet: bool) -> list[str]:
    """Train and score runs with the commands, one at a time on each GPU.

    Args:
        out: Folder of the study.
        gpus: Names in CUDA_VISIBLE_DEVICES; "" is the CPU.

    Returns:
        A line for each run that failed, with the reason.

    Raises:
        KeyboardInterrupt: On Ctrl-C or SIGTERM, after the trainers have saved.
    """
    todo, failures = iter(runs), []
    with progress("study", unit="runs", quiet=quiet) as tell:
        num_done = 0

        async def work(gpu: str) -> None:
            nonlocal num_done
            for run in todo:
                if (reason := await train_and_score(run, out, gpu=gpu, device=device)) is not None:
                    failures.append(reason)
                    click.echo(f"failed: {reason}", err=True)
                num_done += 1
                tell(num_done, len(runs), str(run.folder), failed=len(failures))

        async def work_on_all() -> None:
            task = asyncio.current_task()
            assert task is not None
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
            async with asyncio.TaskGroup() as group:
                for gpu in gpus:
                    group.create_task(work(gpu))

        try:
            asyncio.run(work_on_all())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
    return failures


async def train_and_score(run: StudyRun, out: Path, *, gpu: str, device: str) -> str | None:
    """Run train/main.py, which continues from its last checkpoint, then tools/evaluate.py; returns why one failed."""
    folder, log = out / run.folder, out / run.folder / "log.txt"
    scoring = ["--checkpoint", str(folder / "latest.pt"), "--data", str(run.data), "--json", str(folder / SCORES)]
    commands = [
        ["train/main.py", *run.arguments, "--out", str(folder)],
        ["tools/evaluate.py", *scoring, "--clips", str(NUM_CLIPS)],
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for command in commands:
            if not await call([*command, "--device", device], log=log, gpu=gpu):
                return f"{log}: {last_line(log)}"
    except OSError as error:
        return f"{run.folder}: {error}"
    return None if read_scores(out, run) is not None else f"{run.folder}: stopped before its end"


async def call(words: Sequence[str], *, log: Path, gpu: str) -> bool:
    """Run a command; returns whether it succeeded. If cancelled, sends SIGTERM, at which a trainer saves, and waits."""
    variables = {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
    command = [sys.executable, *words]  # by path: a checkout need not be installed
    with log.open("ab") as file:
        file.write(f"$ {shlex.join([*(f'{name}={value}' for name, value in variables.items()), *command])}\n".encode())
        file.flush()
        child = await asyncio.create_subprocess_exec(
            *command, cwd=CHECKOUT, env=os.environ | variables, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True,  # so that Ctrl-C reaches only this process
        )  # fmt: skip
        try:
            return await child.wait() == 0
        except asyncio.CancelledError:
            child.terminate()
            await child.wait()
            raise


def last_line(path: Path) -> str:
    """The last line of a log that is not empty."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def settings_notes(rows: Sequence[RowRuns], settings: StudySettings) -> list[str]:
    """How the settings differ from the paper's."""
    notes, paper = [], asdict(PAPER)
    if differing := [name for name, value in asdict(settings).items() if value != paper[name]]:
        notes.append(f"not the paper's protocol: {', '.join(differing).replace('_', ' ')} differ")
    if enlarged := sorted({run.folder.parent.name for one in rows for run in one.runs if run.is_enlarged}):
        notes.append(f"enlarged, as no shards have frames that large: {', '.join(enlarged)}")
    return notes


def write_report(out: Path, about: str, rows: Sequence[RowRuns], notes: list[str]) -> str:
    """Write study.md, which is returned; tables.csv; and table-N.png for each table with a finished run."""
    lines, claims = [], []
    for number, group in groupby(rows, key=lambda one: one.number):
        table, of_table = TABLES[number], list(group)
        found = {one.row.name: one.accuracies for one in of_table if one.scores}
        word, reasons = judge(table, found)
        claims.append([table.claim, str(number), word])
        lines += ["", f"## Table {number}: {table.factor}", "", *markdown(HEADER, [one.cells for one in of_table]), ""]
        lines += [table.note, ""] if table.note else []
        lines += [f"**{word}**: {table.claim}.", "", *(f"- {reason}" for reason in reasons)]
        if found:
            chance = next(scores["chance"] for one in of_table for scores in one.scores)
            if max(map(mean, found.values())) < chance + LEAST_LEARNED:
                least = f"{100 * LEAST_LEARNED:.0f} points above chance, {chance:.1%}"
                notes.append(f"table {number}: no row is {least}; train longer")
            lines += ["", f"![Table {number}](table-{number}.png)"]
            title = f"Table {number}: {table.factor}\n{about}"
            ours = {name: [100 * share for share in shares] for name, shares in found.items()}
            paper = {row.name: row.paper for row in table.rows}
            draw_table(out / f"table-{number}.png", ours, paper, title=title, factor=table.factor, chance=100 * chance)
    facts = [about, *machine_lines(machine())]
    head = ["# Architecture study", "", *(f"{line}  " for line in facts), "", HOW, ""]
    head += [*markdown(["claim", "table", "verdict"], claims), "", *(f"- {note}" for note in notes)]
    page = "\n".join([*head, *lines, ""])
    (out / "study.md").write_text(page, encoding="utf-8")
    with (out / "tables.csv").open("w", encoding="utf-8", newline="") as file:
        cells = [[str(one.number), *one.cells] for one in rows]
        csv.writer(file, lineterminator="\n").writerows([["table", *HEADER], *cells])
    return page


if __name__ == "__main__":
    main()
