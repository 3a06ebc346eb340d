#!/usr/bin/env python3
"""Pictures of runs: filters of the first convolution, learning curves."""

import os
import sys
from pathlib import Path

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # docs/decisions/0004-threads-that-wait-sleep.md

import click

from res3d_video.train.terminal import Group, OutputFile

EPILOG = """\b
Examples:
  python tools/draw_figures.py filters --checkpoint runs/3d/latest.pt --checkpoint runs/2d/latest.pt --out filters.png
  python tools/draw_figures.py curves runs/3d runs/2d --out curves.png
\b
filters: conv1 as in Figure 2 of arXiv:1708.05038, a block a checkpoint, a filter's slices in time side by side.
curves: training loss and clip@1 of run folders, also of runs that still go on.
Needs matplotlib: pip install -e ".[bench]".
"""

SHOW = {"max_content_width": 110, "show_default": True}
OUT = click.option("--out", required=True, type=OutputFile(".png"), help="The .png to write.")


@click.group(cls=Group, context_settings=SHOW, epilog=EPILOG)
def main() -> None:
    """Pictures of runs: filters of the first convolution, learning curves."""


@main.command("filters")
@click.option(
    "--checkpoint", "checkpoints", required=True, multiple=True, type=click.Path(path_type=Path),
    help="A .pt file of a run; repeat for several blocks.",
)  # fmt: skip
@OUT
def filters_command(*, checkpoints: tuple[Path, ...], out: Path) -> None:
    """Filters of conv1: of 3D networks every slice in time, of R(2+1)D those in space."""
    from res3d_video.tools.figures.filters import draw_filters, read_filters  # loads torch: help does not wait for it

    draw_filters(out, [read_filters(path) for path in checkpoints])
    click.echo(f"picture {out}")


@main.command("curves")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@OUT
def curves_command(*, runs: tuple[Path, ...], out: Path) -> None:
    """Training loss and clip@1 of run folders."""
    from res3d_video.tools.figures.plots import draw_curves, read_curves

    draw_curves(out, [read_curves(folder) for folder in runs])
    click.echo(f"picture {out}")


if __name__ == "__main__":
    main()
