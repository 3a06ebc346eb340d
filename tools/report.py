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

from res3d_video.train.stopping import end_at_ctrl_c

end_at_ctrl_c(__name__)

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # docs/decisions/0004-threads-that-wait-sleep.md

import click

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.train.bounds import CLIPS, COUNT, MOST, SEED, STRIDE, THREADS, Number
from res3d_video.train.data_options import DATA, Data, remote_options
from res3d_video.train.terminal import (
    JSON_FILE,
    QUIET,
    Group,
    OutputFile,
    extra_needed,
    progress,
    save_json,
    wrong_usage,
)

EPILOG = """\b
Examples:
  python tools/report.py data shards/ucf101
  python tools/report.py data s3://bucket/shards/ucf101 --out ucf101.html --per-class 3 --json ucf101.json
  python tools/report.py run runs/ucf101 --evaluate --data shards/ucf101
  python tools/report.py run runs/a runs/b --out runs.html --json runs.json
\b
A page is one file that needs no server and no network: open it from disk, send it, keep it beside the results.
Needs jinja2 and matplotlib: pip install -e ".[report]".
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
@click.option("--num-frames", default=8, type=COUNT, help="Frames of a planned clip.")
@click.option("--frame-stride", default=2, type=STRIDE, help="Source frames from one frame of a clip to the next.")
@click.option("--clips", default=10, type=CLIPS, help="Clips of a video in an evaluation.")
@click.option("--seed", default=0, type=SEED, help="Of the plan and of what is drawn for the gallery.")
@click.option(
    "--classes", "num_classes", default=12, type=click.IntRange(0, MOST), help="Classes in the gallery at most."
)
@click.option("--per-class", default=2, type=COUNT, help="Segments of each.")
@click.option("--max-mb", default=12.0, type=Number(1, 15), help="Size of the page at most.")
@remote_options
@QUIET
@JSON_FILE
def data_command(
    *,
    data: Data,
    out: Path | None,
    split: str | None,
    num_frames: int,
    frame_stride: int,
    clips: int,
    seed: int,
    num_classes: int,
    per_class: int,
    max_mb: float,
    quiet: bool,
    json_path: Path | None,
) -> None:
    """What the shards in DATA hold: counts, lengths, settings, failures, clips that play, leaks between sides."""
    pages = load("res3d_video.tools.pages.data.page")
    with wrong_usage():
        spec = ClipSpec(num_frames=num_frames, frame_stride=frame_stride)
    wanted = pages.Wanted(spec, split, clips, seed, num_classes, per_class, max_mb)
    index = data.open()
    with progress("report", unit="parts", quiet=quiet) as tell:
        made = pages.data_page(index, wanted, report=tell)
    report(out or Path(f"{index.name}-data.html"), made.html, made.facts, json_path)


@main.command("run")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("--out", type=PAGE, help="The .html to write.  [default: NAME-run.html; runs.html of several]")
@click.option(
    "--data", "datasets", multiple=True, type=DATA,
    help="Shards for the clips of mistakes; repeat for runs on several.  [default: where the run found them]",
)  # fmt: skip
@click.option("--evaluate", is_flag=True, show_default=False, help="Score latest.pt first; writes RUN/scores.json.")
@click.option("--clips", default=10, type=CLIPS, help="Of --evaluate: clips a video.")
@click.option("--num-threads", default=2, type=THREADS, help="Of --evaluate: decoding threads.")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]), help="Of --evaluate.")
@click.option(
    "--bench",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A bench_loader.py --json file.  [default: RUN/bench.json]",
)
@click.option("--mistakes", default=12, type=click.IntRange(0, MOST), help="Clips of mistakes of a run at most.")
@QUIET
@JSON_FILE
def run_command(
    *,
    runs: tuple[Path, ...],
    out: Path | None,
    datasets: tuple[Path | str, ...],
    evaluate: bool,
    clips: int,
    num_threads: int,
    device: str,
    bench: Path | None,
    mistakes: int,
    quiet: bool,
    json_path: Path | None,
) -> None:
    """How one or several trainings went, side by side: curves, speed, classes, mistakes that play, settings.

    Classes and mistakes come from RUN/scores.json: tools/evaluate.py --json writes it, and so does --evaluate.
    """
    pages = load("res3d_video.tools.pages.run.page")
    shards = [Data(place).open() for place in datasets]
    if evaluate:
        work = {"clips": clips, "num_threads": num_threads, "device": device, "quiet": quiet}
        for folder, index in pages.shards_to_score(runs, shards):
            load("res3d_video.tools.evaluate").score_run(folder, index, **work)
    with progress("report", unit="parts", quiet=quiet) as tell:
        made = pages.run_page(runs, pages.Wanted(shards, bench, mistakes), report=tell)
    name = f"{runs[0].resolve().name}-run.html" if len(runs) == 1 else "runs.html"
    report(out or Path(name), made.html, made.facts, json_path)


def load(module: str) -> Any:
    """A module that draws pages; the packages that it needs may be missing."""
    with extra_needed("report"):
        return importlib.import_module(module)


def report(out: Path, html: str, facts: dict[str, Any], json_path: Path | None) -> None:
    """Write the page, and its facts where they are wanted."""
    num_bytes = load("res3d_video.tools.pages.page").write_page(out, html)
    if json_path is not None:
        save_json(json_path, facts)
    click.echo(f"page {out}  {num_bytes / 1e6:.1f} MB")
    if json_path is not None:
        click.echo(f"facts {json_path}")


if __name__ == "__main__":
    main()
