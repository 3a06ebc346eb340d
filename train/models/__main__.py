"""A table of the models: parameters and multiply-adds, with the numbers of arXiv:1708.05038."""

import sys
from pathlib import Path

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    __import__("pipeline")  # makes this checkout known as res3d_video

import click

from res3d_video.train.models import MODELS, ModelConfig, count_costs
from res3d_video.train.terminal import COUNT, WIDTH, Command, text_table

EPILOG = """\b
Examples:
  python -m res3d_video.train.models
  python -m res3d_video.train.models --model res3d18 --model c3d --classes 487

\b
Multiply-adds are those of one clip of the paper's size: convolutions, shortcuts, fully connected layers. docs/paper.md
says why some differ from the paper's.
"""

# Parameters and multiply-adds in the paper's tables: 3, 5 and section 4, which counts 487 classes.
PRINTED = {
    "res3d18": ("33.2 M", "19.3 G"),
    "res3d34": ("63.5 M", "36.7 G"),
    "sr18": ("33.2 M", "10.3 G"),
    "sr18-56": ("33.2 M", "2.6 G"),
    "sr18-224": ("33.3 M", "42.9 G"),
    "sr18-56-table5": ("33.2 M", "2.6 G"),
    "sr18-224-table5": ("33.3 M", "42.9 G"),
    "res2d18": ("11.2 M", "1.6 G"),
    "res2d34": ("21.5 M", "3.5 G"),
    "c3d": ("72.9 M", "38.5 G"),
}


@click.command(cls=Command, context_settings={"max_content_width": 110, "show_default": True}, epilog=EPILOG)
@click.option("--model", "names", multiple=True, type=click.Choice(list(MODELS)), metavar="NAME",
              help="Only this model; again for more.  [default: all]")  # fmt: skip
@click.option("--classes", default=101, type=COUNT, help="Outputs of the last layer.")
@click.option("--width", type=WIDTH, help="Channels of the first stage.  [default: the model's own]")
def main(*, names: tuple[str, ...], classes: int, width: int | None) -> None:
    """List the models: parameters and multiply-adds, and the paper's numbers."""
    rows = []
    for name in dict.fromkeys(names or MODELS):
        model, config = MODELS[name], ModelConfig(name, width=width)
        frames, side = model.num_frames, model.crop_size
        parameters, multiply_adds = count_costs(config, num_classes=classes, clip_shape=(3, frames, side, side))
        printed = PRINTED.get(name, ("", "")) if config.width == model.width else ("", "")
        clip, cost = f"{frames}x{side}x{side}", f"{multiply_adds / 1e9:.3f} G"
        rows.append([name, str(config.width), clip, f"{parameters:,}", printed[0], cost, printed[1]])
    header = ["model", "width", "clip", "parameters", "printed", "multiply-adds", "printed"]
    click.echo("\n".join(text_table(header, rows)))


if __name__ == "__main__":
    main()
