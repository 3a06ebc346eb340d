#!/usr/bin/env python3
"""Weights of others as a checkpoint: torchvision's video networks, or the authors' caffe networks."""

import sys
from pathlib import Path

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

import click

from res3d_video.pipeline.clip import per_channel
from res3d_video.pipeline.files import read_text
from res3d_video.train.config import from_dict
from res3d_video.train.presets import SOURCES
from res3d_video.train.terminal import Command, Number, OutputFile

EPILOG = """\b
Examples:
  python tools/import_weights.py --from torchvision r3d_18-b3b3357e.pth --model r3d_18 --classes kinetics400.txt \\
    --out weights/r3d_18.pt
  python tools/import_weights.py --from caffe res3d-sports1m.npz --model res3d18 --out weights/res3d18.pt
  python tools/extract_features.py --checkpoint weights/res3d18.pt --data shards/ucf101 --out features/ucf101.parquet

\b
torchvision: r3d_18, mc3_18, r2plus1d_18, a .pth with the state dict; 16 frames at stride 2, which for videos of 30
frames/s are the 15 frames/s they were trained on. caffe: res3d10 … res3d34 and c3d, an .npz that
train/importing.py says how to write; Res3D 8 frames at stride 2, C3D 16 at stride 1, pixels minus 128. C3D was
trained on pixels minus a mean clip, which no checkpoint holds: --mean with its mean colour comes closer than 128.
train/main.py --init-from, tools/evaluate.py and tools/extract_features.py take the checkpoint; it cannot be resumed.
"""

IN_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
MODELS = list(dict.fromkeys(model for models in SOURCES.values() for model in models))


@click.command(cls=Command, context_settings={"max_content_width": 110, "show_default": True}, epilog=EPILOG)
@click.argument("weights", metavar="FILE", type=IN_FILE)
@click.option("--from", "source", required=True, type=click.Choice(list(SOURCES)), help="Whose weights.")
@click.option("--model", required=True, type=click.Choice(MODELS), help="Network that they are of.")
@click.option("--classes", "classes_path", type=IN_FILE, help="Names, one a line.  [default: class_000, class_001, …]")
@click.option(
    "--mean", nargs=3, type=Number(-1e6, 1e6), metavar="R G B", help="Of the pixels, 0 to 255.  [default: the source's]"
)
@click.option("--out", required=True, type=OutputFile(), help="The checkpoint to write.")
def main(
    *, weights: Path, source: str, model: str, classes_path: Path | None, mean: tuple[float, ...] | None, out: Path
) -> None:
    """Weights of others as a checkpoint: torchvision's video networks, or the authors' caffe networks."""
    from res3d_video.train.checkpoint import save_checkpoint  # loads torch, which takes seconds
    from res3d_video.train.importing import import_weights

    if out.exists():
        raise click.UsageError(f"--out: {out} already exists; choose another name or remove it")
    names = None
    if classes_path is not None:
        names = [line for line in map(str.strip, read_text(classes_path).splitlines()) if line]
    state = import_weights(weights, source=source, model=model, classes=names, mean=mean)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(out, state)

    config, classes = from_dict(state["config"]), state["classes"]
    clip = config.clip
    channels, std = (" ".join(f"{value:.2f}" for value in per_channel(v)) for v in (config.mean, config.std))
    click.echo(f"weights     {config.model.name} of width {config.model.width}, {weights}")
    click.echo(f"classes     {len(classes)}: {', '.join(classes[:3])}{', …' if len(classes) > 3 else ''}")
    click.echo(f"clips       {clip.num_frames} frames at stride {clip.frame_stride}, {clip.crop_size} pixels")
    click.echo(f"pixels      (R G B - {channels}) / {std}")
    click.echo(f"checkpoint  {out}")
    if SOURCES[source][model].note:
        click.echo(f"note: {SOURCES[source][model].note}")


if __name__ == "__main__":
    main()
