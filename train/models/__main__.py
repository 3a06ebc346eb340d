"""A table of the models: parameters and multiply-adds, beside what arXiv:1708.05038 prints."""

import sys
from pathlib import Path
from typing import Any

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    __import__("pipeline")  # makes this checkout known as res3d_video

import click

from res3d_video.train.models import MODELS, ModelConfig
from res3d_video.train.terminal import COUNT, WIDTH, Command, print_json, text_table

EPILOG = """\b
Examples:
  python -m res3d_video.train.models
  python -m res3d_video.train.models --model res3d18 --model c3d --classes 487
\b
Multiply-adds are those of one clip of the paper's size: convolutions, shortcuts, fully connected layers. docs/paper.md
says why some differ from the paper's.
"""

# Millions of parameters and 10^9 multiply-adds in the paper's tables: 3, 5 and section 4, which counts 487 classes.
PRINTED: dict[str, tuple[float, float]] = {
    "res3d18": (33.2, 19.3),
    "res3d34": (63.5, 36.7),
    "sr18": (33.2, 10.3),
    "sr18-56": (33.2, 2.6),
    "sr18-224": (33.3, 42.9),
    "sr18-56-table5": (33.2, 2.6),
    "sr18-224-table5": (33.3, 42.9),
    "res2d18": (11.2, 1.6),
    "res2d34": (21.5, 3.5),
    "c3d": (72.9, 38.5),
}


@click.command(cls=Command, context_settings={"max_content_width": 110, "show_default": True}, epilog=EPILOG)
@click.option("--model", "names", multiple=True, type=click.Choice(list(MODELS)), metavar="NAME",
              help="Only this model; again for more.  [default: all]")  # fmt: skip
@click.option("--classes", default=101, type=COUNT, help="Outputs of the last layer.")
@click.option("--width", type=WIDTH, help="Channels of the first stage.  [default: the model's own]")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def main(*, names: tuple[str, ...], classes: int, width: int | None, as_json: bool) -> None:
    """List the models: parameters and multiply-adds, and the paper's numbers."""
    from res3d_video.train.models.costs import count_costs  # loads torch, which takes seconds

    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(names or MODELS):
        model, config = MODELS[name], ModelConfig(name, width=width)
        clip_shape = (3, model.num_frames, model.crop_size, model.crop_size)
        parameters, multiply_adds = count_costs(config, num_classes=classes, clip_shape=clip_shape)
        printed = PRINTED.get(name) if config.width == model.width else None
        rows.append(
            {
                "model": name,
                "width": config.width,
                "num_frames": model.num_frames,
                "crop_size": model.crop_size,
                "num_classes": classes,
                "parameters": parameters,
                "multiply_adds": multiply_adds,
                "printed_parameters_m": printed[0] if printed else None,
                "printed_multiply_adds_g": printed[1] if printed else None,
            }
        )
    if as_json:
        print_json(rows)
        return
    header = ["model", "width", "clip", "parameters", "printed", "multiply-adds", "printed"]
    cells = [
        [
            row["model"],
            str(row["width"]),
            "{num_frames}x{crop_size}x{crop_size}".format_map(row),
            f"{row['parameters']:,}",
            "" if row["printed_parameters_m"] is None else f"{row['printed_parameters_m']} M",
            f"{row['multiply_adds'] / 1e9:.3f} G",
            "" if row["printed_multiply_adds_g"] is None else f"{row['printed_multiply_adds_g']} G",
        ]
        for row in rows
    ]
    click.echo("\n".join(text_table(header, cells)))


if __name__ == "__main__":
    main()
