#!/usr/bin/env python3
"""Reports as HTML pages: the contents of a dataset's shards, and the progress of runs."""

import os
import sys
from pathlib import Path

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # docs/decisions/0004-threads-that-wait-sleep.md

import click

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.files import write_atomically
from res3d_video.train.data_options import DATA, Data, remote_options
from res3d_video.train.evaluation import SCORES
from res3d_video.train.terminal import COUNT, MOST, QUIET, Group, OutputFile, extra_needed, progress, save_json

EPILOG = """\b
Examples:
  python tools/report.py data shards/ucf101
  python tools/report.py data s3://bucket/shards/ucf101 --out ucf101.html --per-class 3
  python tools/report.py run runs/ucf101 --data shards/ucf101
  python tools/report.py run runs/a runs/b --out runs.html

\b
A page is one file that needs no server and no network.
Needs jinja2 and matplotlib: pip install -e ".[report]".
"""

SHOW = {"max_content_width": 110, "show_default": True}
PAGE = OutputFile(".html", ".htm")


@click.group(cls=Group, context_settings=SHOW, epilog=EPILOG)
def main() -> None:
    """Reports as HTML pages: a dataset's shards, and runs."""


@main.command("data")
@click.argument("data", type=DATA)
@click.option("--out", type=PAGE, help="HTML file to write.  [default: NAME-data.html]")
@click.option("--classes", "num_classes", default=12, type=click.IntRange(0, MOST), help="Most classes in the gallery.")
@click.option("--per-class", default=2, type=COUNT, help="Samples per class in the gallery.")
@remote_options
@QUIET
def data_command(*, data: Data, out: Path | None, num_classes: int, per_class: int, quiet: bool) -> None:
    """The contents of the shards in DATA: samples that play, classes, lengths, leaks, failures, settings."""
    with extra_needed("report"):
        from res3d_video.tools.pages.data_page import data_page
    index = data.open()
    with progress("report", unit="samples", quiet=quiet) as report:
        html = data_page(index, num_classes=num_classes, per_class=per_class, report=report)
    write(out or Path(f"{index.name}-data.html"), html)


@main.command("run")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("--out", type=PAGE, help="HTML file to write.  [default: NAME-run.html, or runs.html]")
@click.option(
    "--data", "datasets", multiple=True, type=DATA,
    help="Shards of the runs; repeat for several datasets.  [default: the folder where they were during training]",
)  # fmt: skip
@click.option("--no-evaluate", is_flag=True, show_default=False, help="Do not score new checkpoints.")
@click.option("--mistakes", default=12, type=click.IntRange(0, MOST), help="Most clips of mistakes per run.")
@QUIET
def run_command(
    *,
    runs: tuple[Path, ...],
    out: Path | None,
    datasets: tuple[Path | str, ...],
    no_evaluate: bool,
    mistakes: int,
    quiet: bool,
) -> None:
    """One or several runs side by side: learning curves, speed, classes, mistakes that play, settings.

    Classes and mistakes come from RUN/scores.json, as tools/evaluate.py --json writes it. If latest.pt is newer and
    its shards are found, it is scored first.
    """
    with extra_needed("report"):
        from res3d_video.tools.pages.run_page import is_to_score, run_page, shards_of
    from res3d_video.tools.run_reader import read_runs
    from res3d_video.train.evaluation.video_level import score_checkpoint
    from res3d_video.train.ranks import from_torchrun

    shards = [Data(place).open() for place in datasets]
    found = read_runs(runs)
    for run in found:
        index, remark = shards_of(run, shards)
        if index is None or remark or no_evaluate or not is_to_score(run):
            continue
        try:
            _, scores = score_checkpoint(run.folder / "latest.pt", index, ranks=from_torchrun("auto"), quiet=quiet)
            save_json(run.folder / SCORES, scores)
        except (UserError, OSError) as error:
            run.problems.append(f"not scored: {error}")
    with progress("report", unit="runs", quiet=quiet) as report:
        html = run_page(found, data=shards, num_mistakes=mistakes, report=report)
    write(out or Path(f"{runs[0].resolve().name}-run.html" if len(found) == 1 else "runs.html"), html)


def write(out: Path, html: str) -> None:
    content = html.encode("utf-8", "replace")  # names may hold what UTF-8 has no bytes for
    write_atomically(out, content)
    click.echo(f"page {out}  {len(content) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
