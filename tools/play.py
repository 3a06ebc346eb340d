#!/usr/bin/env python3
"""Look at a sample, or at the clips that training and evaluation take of it: as a GIF, an MP4 or a contact sheet."""

import os
import sys
from pathlib import Path
from typing import Any, get_args

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

from res3d_video.train.stopping import end_at_ctrl_c

end_at_ctrl_c(__name__)

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # docs/decisions/0004-threads-that-wait-sleep.md

import click

from res3d_video.tools.playing.files import KINDS, write_show
from res3d_video.tools.playing.options import PLAN, plan_config, plan_options
from res3d_video.tools.playing.report import report_lines
from res3d_video.tools.playing.shows import Look
from res3d_video.tools.playing.titles import Stage
from res3d_video.tools.playing.wanted import Wanted, make_show
from res3d_video.train.bounds import CLIPS, COUNT, MOST, Number
from res3d_video.train.data_options import DATA, REMOTE, Data, remote_options
from res3d_video.train.presets import PRESETS
from res3d_video.train.terminal import JSON_FILE, QUIET, Command, Name, OutputFile, WrongUsage, progress, save_json

EPILOG = """\b
Examples:
  python tools/play.py shards/ucf101 v_Archery_g01_c01 --out clip.gif
  python tools/play.py shards/ucf101 v_Archery_g01_c01 --epoch 3 --seed 7 --num-frames 16 --out clip.png
  python tools/play.py shards/ucf101 --random --side test --clips 10 --stage clip --out views.png
  python tools/play.py s3://bucket/shards/ucf101 --index 12 --stage segment --out video.mp4
  python tools/play.py shards/ucf101 v_Archery_g01_c01 --run runs/ucf101 --step 500 --out seen.mp4
\b
KEY is a sample's key, the name of its video, or a part of either that no other sample has.
Of a training sample, the clip of its first step is shown unless --step or --epoch say which; of a test sample, the
centre clip unless --clips or --view do. --stage: segment is all that is stored; frames are a clip's, as stored; clip is
what the network gets, from the same DALI graph, with its normalisation undone; both are side by side, and the crop is
drawn in. Needs Pillow and matplotlib: pip install -e ".[report]".
"""

STAGES = list(get_args(Stage))


@plan_options
@click.command(
    cls=Command,
    context_settings={"max_content_width": 110, "show_default": True},
    epilog=EPILOG,
    headings={
        "Which sample": ["is_random", "number"],
        "Which clips": ["side", "step", "epoch", "view", "num_clips"],
        "How they are taken": ["preset", "run", *PLAN],
        "What is written": ["out", "stage", "is_normalised", "fps", "zoom", "max_frames", "quiet", "json_path"],
        "Shards behind a URL": REMOTE,
    },
)
@click.argument("data", metavar="DIR", type=DATA)
@click.argument("key", required=False)
@click.option("--random", "is_random", is_flag=True, show_default=False, help="Any sample of --side, else of all.")
@click.option("--index", "number", type=click.IntRange(0, MOST), help="Number of the sample, from 0.")
@click.option("--side", type=click.Choice(["train", "test"]), help="Of the split.  [default: the sample's]")
@click.option("--step", type=click.IntRange(0, MOST), help="The sample's clips in this step of training, from 0.")
@click.option("--epoch", type=click.IntRange(0, MOST), help="Its clip in this epoch of training, from 0.")
@click.option("--view", type=click.IntRange(0, MOST), help="This clip of an evaluation alone, from 0.")
@click.option("--clips", "num_clips", type=CLIPS, help="Clips of a video in an evaluation.  [default: 1, --view 10]")
@click.option("--preset", type=Name(list(PRESETS)), metavar="NAME", help="Recipe.  [default: ucf101-search]")
@click.option(
    "--run", type=click.Path(file_okay=False, exists=True, path_type=Path), help="As the run in this folder has it."
)
@click.option("--out", required=True, type=OutputFile(*KINDS), help="The file to write; .png is a sheet of all frames.")
@click.option("--stage", default="both", type=click.Choice(STAGES), help="What is shown.")
@click.option(
    "--normalised", "is_normalised", is_flag=True, show_default=False,
    help="Show the numbers the network gets as grey, 0 in the middle.",
)  # fmt: skip
@click.option("--fps", type=Number(0.1, 100), help="Of what plays.  [default: the speed of the source]")
@click.option("--zoom", type=Number(0.1, 16), help="Pixels for one of a stored frame.  [default: chosen]")
@click.option("--max-frames", type=COUNT, help="Of a segment.  [default: .png 32, .gif 300, .mp4 2000]")
@remote_options
@QUIET
@JSON_FILE
def main(
    *,
    data: Data,
    key: str | None,
    is_random: bool,
    number: int | None,
    side: str | None,
    step: int | None,
    epoch: int | None,
    view: int | None,
    num_clips: int | None,
    preset: str | None,
    run: Path | None,
    out: Path,
    stage: Stage,
    is_normalised: bool,
    fps: float | None,
    zoom: float | None,
    max_frames: int | None,
    quiet: bool,
    json_path: Path | None,
    **options: Any,
) -> None:
    """Write a sample of the shards in DIR, or clips of it before and after augmentation, as pictures."""
    if sum([key is not None, is_random, number is not None]) != 1:
        raise WrongUsage("KEY, --random and --index each say which sample; give one of them")
    exclusive({"--step": step, "--epoch": epoch}, {"--view": view, "--clips": num_clips})
    exclusive({"--preset": preset}, {"--run": run})
    if step is not None and epoch is not None:
        raise WrongUsage("--step and --epoch both decide the same; leave one of them out")
    if is_normalised and stage in ("segment", "frames"):
        raise WrongUsage(f"--normalised: --stage {stage} shows pixels as stored; leave it out, or choose clip or both")
    of_clips = {"--step": step, "--epoch": epoch, "--view": view, "--clips": num_clips}
    for name in [name for name, value in of_clips.items() if value is not None and stage == "segment"]:
        raise WrongUsage(f"{name}: --stage segment shows no clip; leave it out, or choose another stage")
    wanted = Wanted(stage, key, number, side, step, epoch, view, num_clips, split=options["split"])
    look = Look(out.suffix.lower(), zoom, fps, max_frames, is_normalised)
    index = data.open()
    config = None if stage == "segment" else plan_config(index, preset=preset, run=run, **options)
    show, told = make_show(index, config, wanted, look)
    with progress("drawing", unit="frames", quiet=quiet) as tell:
        told |= {"out": write_show(out, show, on_frame=tell)}
    if json_path is not None:
        save_json(json_path, told)
    for line in report_lines(told):
        click.echo(line)
    if json_path is not None:
        click.echo(f"numbers  {json_path}")


def exclusive(some: dict[str, Any], others: dict[str, Any]) -> None:
    """Options of two kinds that do not go together."""
    given = [[name for name, value in kind.items() if value is not None] for kind in (some, others)]
    if all(given):
        raise WrongUsage(f"{given[0][0]} and {given[1][0]} do not go together; leave one of them out")


if __name__ == "__main__":
    main()
