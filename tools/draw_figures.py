#!/usr/bin/env python3
"""Pictures of runs: filters of the first convolution, learning curves."""

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

from res3d_video.train.terminal import JSON_FILE, Group, OutputFile, save_json, text_table

EPILOG = """\b
Examples:
  python tools/draw_figures.py filters --checkpoint runs/3d/latest.pt --checkpoint runs/2d/latest.pt --out filters.png
  python tools/draw_figures.py curves runs/3d runs/2d --x clips --out curves.png
\b
filters: conv1 as in Figure 2 of arXiv:1708.05038, a block a checkpoint, a filter's slices in time side by side.
curves: training loss and clip@1 of run folders, also of runs that still go on.
Needs matplotlib: pip install -e ".[bench]".
"""

SHOW = {"max_content_width": 110, "show_default": True}
OUT = click.option("--out", required=True, type=OutputFile(".png"), help="The .png to write.")
TITLE = click.option("--title", help="Above the picture.  [default: says what is shown]")


@click.group(cls=Group, context_settings=SHOW, epilog=EPILOG)
def main() -> None:
    """Pictures of runs: filters of the first convolution, learning curves."""


@main.command("filters")
@click.option(
    "--checkpoint", "checkpoints", required=True, multiple=True, type=click.Path(path_type=Path),
    help="A .pt file of a run; repeat for several blocks.",
)  # fmt: skip
@OUT
@TITLE
@JSON_FILE
def filters_command(*, checkpoints: tuple[Path, ...], out: Path, title: str | None, json_path: Path | None) -> None:
    """Filters of conv1: of 3D networks every slice in time, of R(2+1)D those in space."""
    from res3d_video.tools.figures.filters import draw_filters, read_filters  # loads torch: help does not wait for it

    networks = [read_filters(path) for path in checkpoints]
    draw_filters(out, networks, title=title or "Filters of conv1")
    rows = [[str(f.checkpoint), f.model, f.layer, "×".join(map(str, f.weight.shape))] for f in networks]
    table = text_table(["checkpoint", "model", "layer", "weights"], rows, left=(0, 1, 2))
    report(table, out, json_path, [filters.summary() for filters in networks])


@main.command("curves")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@OUT
@click.option("--x", default="steps", type=click.Choice(["steps", "clips"]), help="Horizontal axis.")
@TITLE
@JSON_FILE
def curves_command(*, runs: tuple[Path, ...], out: Path, x: Any, title: str | None, json_path: Path | None) -> None:
    """Training loss and clip@1 of run folders."""
    from res3d_video.tools.figures.plots import draw_curves, read_curves, summarise  # loads torch

    found = [read_curves(folder) for folder in runs]
    draw_curves(out, found, title=title or "Learning curves", x=x)
    numbers = summarise(found)
    rows = [[r["name"], str(r["step"]), f"{r['loss']:.3f}", accuracy_text(r["clip_at_1"])] for r in numbers]
    report(text_table(["run", "step", "loss", "clip@1"], rows), out, json_path, numbers)


def accuracy_text(share: float | None) -> str:
    """
    >>> accuracy_text(0.4567), accuracy_text(None)
    ('45.7%', 'not evaluated yet')
    """
    return "not evaluated yet" if share is None else f"{share:.1%}"


def report(lines: list[str], out: Path, json_path: Path | None, numbers: list[dict[str, Any]]) -> None:
    """The numbers as JSON; what they say, and where the files are."""
    if json_path is not None:
        save_json(json_path, numbers)
    click.echo("\n".join([*lines, f"picture    {out}"]))
    if json_path is not None:
        click.echo(f"numbers    {json_path}")


if __name__ == "__main__":
    main()
