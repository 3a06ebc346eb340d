"""A table of the models: parameters, multiply-adds, what the paper prints, why they differ."""

import sys
from dataclasses import asdict
from pathlib import Path

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    __import__("pipeline")  # makes this checkout known as res3d_video

import click

from res3d_video.train.models import MODELS, ModelConfig
from res3d_video.train.terminal import BATCH, COUNT, QUIET, WIDTH, Command, Failed, print_json, progress

EPILOG = """\b
Examples:
  python -m res3d_video.train.models
  python -m res3d_video.train.models --model res3d18 --model c3d --classes 487
  python -m res3d_video.train.models --model r2plus1d18 --measure --batch-size 8
\b
Multiply-adds are those of one clip of the paper's size: convolutions, shortcuts, fully connected layers.
--measure times inference and the whole training step, on this machine and with nothing else on it.
"""


@click.command(cls=Command, context_settings={"max_content_width": 110, "show_default": True}, epilog=EPILOG)
@click.option("--model", "names", multiple=True, type=click.Choice(list(MODELS)), metavar="NAME",
              help="Only this model; again for more.  [default: all]")  # fmt: skip
@click.option("--classes", default=101, type=COUNT, help="Outputs of the last layer.")
@click.option("--width", type=WIDTH, help="Channels of the first stage.  [default: the model's own]")
@click.option("--measure", "measured", is_flag=True, help="Clips/s and memory on this machine; give --model as well.")
@click.option("--batch-size", default=4, type=BATCH, help="Clips at a time, for --measure.")
@click.option("--repeats", default=3, type=COUNT, help="Runs whose median counts, for --measure.")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to measure.")
@QUIET
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def main(
    *,
    names: tuple[str, ...],
    classes: int,
    width: int | None,
    measured: bool,
    batch_size: int,
    repeats: int,
    device: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """List the models: parameters, multiply-adds, the paper's numbers, and why they differ."""
    import torch  # takes seconds: help and wrong options do not wait for it

    from res3d_video.train.models.table import cost_of, measure, notes, table
    from res3d_video.train.ranks import from_torchrun

    names = tuple(dict.fromkeys(names or MODELS))
    costs = [cost_of(name, num_classes=classes, width=width) for name in names]
    speeds = []
    with progress("measuring", unit="models", quiet=quiet) as tell:
        for done, cost in enumerate(costs if measured else []):
            tell(done, len(costs), cost.model)
            try:
                speeds.append(
                    measure(
                        ModelConfig(cost.model, width=width),
                        clip_shape=(3, cost.num_frames, cost.crop_size, cost.crop_size),
                        num_classes=classes,
                        batch_size=batch_size,
                        device=from_torchrun(device).device,
                        repeats=repeats,
                    )
                )
            except (ValueError, torch.OutOfMemoryError) as error:
                raise Failed(f"{cost.model}: {str(error).splitlines()[0]}") from None
            tell(done + 1, len(costs), cost.model)
    if as_json:
        speed_dicts = [asdict(speed) for speed in speeds] or [{} for _ in costs]
        rows = [cost.to_dict() | speed for cost, speed in zip(costs, speed_dicts, strict=True)]
        print_json(rows)
        return
    for line in table(costs, speeds):
        click.echo(line)
    for line in notes(costs):
        click.echo(line)


if __name__ == "__main__":
    main()
