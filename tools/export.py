#!/usr/bin/env python3
"""Write a checkpoint's network as one file for other programs: uint8 frames in, probabilities out."""

import os
import sys
from pathlib import Path

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # docs/decisions/0004-threads-that-wait-sleep.md

import click

from res3d_video.train.terminal import SIDE, Command, OutputFile, WrongUsage, extra_needed, print_json

SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}  # by format

EPILOG = """\b
Examples:
  python tools/export.py --checkpoint runs/mine/best.pt --format onnx --out mine.onnx
  python tools/export.py --checkpoint runs/mine/best.pt --format torch --height 480 --width 640 --out mine.pt2

\b
The file takes uint8 RGB frames [N, T, height, width, 3], any N, and gives probabilities [N, K]. Resizing,
center crop and normalization are inside; its metadata "res3d.json" has the classes, T and the frame stride. What was
written is read again and compared with the checkpoint on random frames. ONNX needs: pip install -e ".[export]".
"""


@click.command(cls=Command, context_settings={"max_content_width": 110, "show_default": True}, epilog=EPILOG)
@click.option("--checkpoint", required=True, type=click.Path(path_type=Path), help="A .pt file of a run, or imported.")
@click.option("--format", "kind", required=True, type=click.Choice(["torch", "onnx"]), help="torch.export or ONNX.")
@click.option("--out", required=True, type=OutputFile(*SUFFIXES.values()), help="File to write.")
@click.option("--height", default=240, type=SIDE, help="Of the frames that it will be given, pixels.")
@click.option("--width", default=320, type=SIDE, help="Likewise.")
@click.option("--json", "as_json", is_flag=True, show_default=False, help="Print the metadata as JSON.")
def main(*, checkpoint: Path, kind: str, out: Path, height: int, width: int, as_json: bool) -> None:
    """Write a checkpoint's network as one file for other programs."""
    if out.suffix.lower() != SUFFIXES[kind]:
        raise WrongUsage(f"--out: {out} must end in {SUFFIXES[kind]} for --format {kind}")
    with extra_needed("export"):
        from res3d_video.train.checkpoint import load_model  # these load torch: help does not wait for it
        from res3d_video.train.export import export_model

        about = export_model(load_model(checkpoint), out, kind=kind, height=height, width=width)
    if as_json:
        print_json(about | {"out": str(out)})
        return
    click.echo(
        f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB: {about['num_frames']} frames of {width}×{height} at stride "
        f"{about['frame_stride']} to {len(about['classes'])} classes"
    )


if __name__ == "__main__":
    main()
