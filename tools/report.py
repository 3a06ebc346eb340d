#!/usr/bin/env python3
"""Pages to look at in a browser, one HTML file each: what a dataset's shards hold, and how trainings went."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # docs/decisions/0004-threads-that-wait-sleep.md

import click

from res3d_video.pipeline.errors import UserError
from res3d_video.train.data_options import DATA, Data, remote_options
from res3d_video.train.evaluation import SCORES
from res3d_video.train.terminal import (
    COUNT,
    JSON_FILE,
    MOST,
    QUIET,
    SEED,
    Group,
    OutputFile,
    extra_needed,
    progress,
    save_json,
)

EPILOG = """\b
Examples:
  python tools/report.py data shards/ucf101
  python tools/report.py data s3://bucket/shards/ucf101 --out ucf101.html --per-class 3 --json ucf101.json
  python tools/report.py run runs/ucf101 --data shards/ucf101
  python tools/report.py run runs/a runs/b --out runs.html --json runs.json
\b
A page is one file that needs no server and no network: open it from disk, send it, keep it beside the results.
Needs jinja2: pip install -e ".[report]".
"""

SHOW = {"max_content_width": 110, "show_default": True}
PAGE = OutputFile(".html", ".htm")


@click.group(cls=Group, context_settings=SHOW, epilog=EPILOG)
def main() -> None:
    """Pages to look at in a browser: a dataset's shards, and runs."""


@main.command("data")
@click.argument("data", type=DATA)
@click.option("--out", type=PAGE, help="The .html to write.  [default: NAME-data.html in this folder]")
@click.option("--split", help="Whose sides are compared.  [default: 1, else the first]")
@click.option(
    "--classes", "num_classes", default=12, type=click.IntRange(0, MOST), help="Classes in the gallery at most."
)
@click.option("--per-class", default=2, type=COUNT, help="Samples of each.")
@click.option("--seed", default=0, type=SEED, help="Of what is drawn for the gallery.")
@remote_options
@QUIET
@JSON_FILE
def data_command(*, data: Data, out: Path | None, quiet: bool, json_path: Path | None, **selection: Any) -> None:
    """What the shards in DATA hold: clips that play, classes, lengths, leaks, failures, settings."""
    pages = load("res3d_video.tools.pages.data_page")
    index = data.open()
    with progress("report", unit="parts", quiet=quiet) as tell:
        html, facts = pages.data_page(index, **selection, report=tell)
    write(out or Path(f"{index.name}-data.html"), html, facts, json_path)


@main.command("run")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("--out", type=PAGE, help="The .html to write.  [default: NAME-run.html; runs.html of several]")
@click.option(
    "--data", "datasets", multiple=True, type=DATA,
    help="Shards of the runs; repeat for runs on several.  [default: where the run found them]",
)  # fmt: skip
@click.option(
    "--evaluate/--no-evaluate", default=None, show_default=False,
    help="Score latest.pt first; writes RUN/scores.json.  [default: where it is new and the shards are found]",
)  # fmt: skip
@click.option("--mistakes", default=12, type=click.IntRange(0, MOST), help="Clips of mistakes of a run at most.")
@QUIET
@JSON_FILE
def run_command(
    *,
    runs: tuple[Path, ...],
    out: Path | None,
    datasets: tuple[Path | str, ...],
    evaluate: bool | None,
    mistakes: int,
    quiet: bool,
    json_path: Path | None,
) -> None:
    """How one or several trainings went, side by side: curves, speed, classes, mistakes that play, settings.

    Classes and mistakes come from RUN/scores.json, which tools/evaluate.py --json writes too.
    """
    pages = load("res3d_video.tools.pages.run_page")
    shards = [Data(place).open() for place in datasets]
    found = pages.read_runs(runs)
    for run, index in pages.runs_to_score(found, shards, evaluate=evaluate):
        try:
            scoring, ranks = load("res3d_video.train.evaluation.video_level"), load("res3d_video.train.ranks")
            _, scores = scoring.score_checkpoint(
                run.folder / "latest.pt", index, ranks=ranks.from_torchrun("auto"), quiet=quiet
            )
            save_json(run.folder / SCORES, scores)
        except (UserError, OSError) as error:
            if evaluate:
                raise
            run.problems.append(f"not scored: {error}")
    with progress("report", unit="parts", quiet=quiet) as tell:
        html, facts = pages.run_page(found, data=shards, num_mistakes=mistakes, report=tell)
    name = f"{runs[0].resolve().name}-run.html" if len(found) == 1 else "runs.html"
    write(out or Path(name), html, facts, json_path)


def load(module: str) -> Any:
    """A module that makes pages; the packages that it needs may be missing."""
    with extra_needed("report"):
        return importlib.import_module(module)


def write(out: Path, html: str, facts: dict[str, Any], json_path: Path | None) -> None:
    """Write the page, and its facts where they are asked for."""
    num_bytes = load("res3d_video.tools.pages.markup").write_page(out, html)
    if json_path is not None:
        save_json(json_path, facts)
    click.echo(f"page {out}  {num_bytes / 1e6:.1f} MB")
    if json_path is not None:
        click.echo(f"facts {json_path}")


if __name__ == "__main__":
    main()
