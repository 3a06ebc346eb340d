"""The trainer's command line: its options, and what becomes of them before a run."""

import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource

from pipeline.index import ShardIndex
from pipeline.loader import LoaderSettings
from pipeline.settings import ENGINES, WEEK_S
from train.bounds import Number
from train.checkpoint import load_checkpoint, load_latest
from train.config import MOST, TrainConfig, from_dict, override, scaled_lr, scaled_to_steps
from train.data_options import DATA, REMOTE, Data, remote_options
from train.fast import card_of, fast_options, fast_path
from train.models import MODELS
from train.presets import PRESETS
from train.ranks import COLLECTIVE_TIMEOUT_S, Ranks, speaks_for_machine
from train.step import StepOptions, default_options
from train.stopping import StopRequest
from train.terminal import Command, Name, WrongUsage, wrong_usage

EPILOG = """\b
Examples:
  torchrun train/main.py --data shards/sports1m
  torchrun --nproc-per-node 8 train/main.py --data shards/ucf101 --preset modern --out runs/modern
  python train/main.py --data shards/hmdb51 --split 2 --preset finetune-hmdb51 --out runs/hmdb51-2 \\
      --init-from runs/sports1m-sports1m/latest.pt
  python train/main.py --data s3://bucket/ucf101 --cache /scratch/shards --cache-limit 50GB --preset tiny --out runs/s3
\b
SIGTERM, SIGUSR1 and Ctrl-C finish the step and save; the same command then goes on as if nothing had happened. Before
the first step there is nothing to finish. A second Ctrl-C ends at once. A signal to one process stops all of a run;
torchrun passes it on, but itself ends with code 1.
Exit codes: 0 done, or stopped by SIGTERM or SIGUSR1; 1 failure; 2 wrong usage; 130 Ctrl-C.
"""

__all__ = [
    "COMMAND",
    "Data",
    "configure",
    "defaults",
    "execution",
    "find_state",
    "pixels_as_trained",
    "train_options",
]

LOADER = LoaderSettings()
OF_DATASETS = {"sports1m": "sports1m", "ucf101": "ucf101-search"}  # others: that of UCF101, the paper's from scratch
NEW_FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class TrainCommand(Command):
    """The trainer's: of several processes under torchrun one says what is wrong.

    Args:
        stop: Knows whether this process was told to stop, as torchrun does when another one has failed.
    """

    def __init__(self, *args: Any, stop: StopRequest | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stop = stop

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run it as the process's command, or in a test."""
        stop = self._stop
        if stop is None:
            return super().main(*args, **kwargs)
        try:
            code = super().main(*args, **kwargs | {"standalone_mode": False})
        except click.ClickException as error:
            if speaks_for_machine(error.format_message(), is_ended=stop.is_told):
                error.show()
            code = error.exit_code
        stop.close()
        raise SystemExit(code)


# fmt: off
EXECUTION_OPTIONS = [  # how, not what; `execution` takes them
    click.option("--fast", is_flag=True, show_default=False,
                 help="Take what tools/check_gpu.py found exact and faster here; options that are given win."),
    click.option("--engine", default=LOADER.engine, type=click.Choice(ENGINES),
                 help="What decodes; auto is DALI where it is installed, else libjpeg-turbo and FFmpeg in threads."),
    click.option("--num-threads", default=LOADER.num_threads, type=int, help="Decoding threads a process."),
    click.option("--prefetch", default=LOADER.prefetch, type=int, help="Batches that wait ready at most."),
    click.option("--queue-depth", default=LOADER.queue_depth, type=int, help="Batches being decoded at a time."),
    click.option("--num-pipelines", type=int,
                 help="DALI pipelines that take turns.  [default: 2 for H.264 on a GPU, else 1]"),
    click.option("--hw-decoder-load", default=LOADER.hw_decoder_load, type=float,
                 help="Share of the pictures for a GPU's JPEG engines, 0 to 1."),
    click.option("--fancy-upsampling/--no-fancy-upsampling", default=LOADER.fancy_upsampling,
                 help="On a GPU, smooth the chroma of JPEGs as a CPU does."),
    click.option("--read-ahead", default=LOADER.read_ahead, type=int,
                 help="Steps whose bytes are asked from disk before they are needed."),
    click.option("--stall-timeout", "stall_timeout_s", default=LOADER.stall_timeout_s, type=float,
                 help="Seconds that a batch may take before the run gives up; 0: any time."),
    click.option("--compile/--no-compile", default=None, show_default=False,
                 help="torch.compile.  [default: on a GPU, where it works]"),
    click.option("--cuda-graph/--no-cuda-graph", default=None, show_default=False,
                 help="Forward and backward pass replayed as one CUDA graph.  [default: off]"),
    click.option("--space-to-depth/--no-space-to-depth", default=None, show_default=False,
                 help="The first convolution on 2x2 blocks of pixels.  [default: off]"),
    click.option("--high-priority/--no-high-priority", default=None, show_default=False,
                 help="The model's kernels go before the loader's.  [default: off]"),
]
OPTIONS = [
    click.option("--data", required=True, type=DATA, help="Shards: a folder, or a URL like s3://bucket/shards."),
    click.option("--preset", type=Name(list(PRESETS)), metavar="NAME",
                 help=f"Recipe: {', '.join(PRESETS)}.  [default: by the dataset; tiny without a GPU]"),
    click.option("--out", type=NEW_FOLDER, help="Folder of the run.  [default: runs/DATASET-PRESET]"),
    click.option("--steps", type=int, help="Updates of the whole run; a cosine ends there, the breakpoints of a "
                 "step schedule and the warm-up stay."),
    click.option("--scale-to-steps", type=click.IntRange(1, MOST),
                 help="Updates of the whole run, and the schedule keeps its shape: breakpoints and warm-up scale."),
    click.option("--resume", default="auto",
                 help="auto (go on in OUT if a run is there), never, or a checkpoint."),
    click.option("--init-from", type=FILE,
                 help="Start from this checkpoint's weights, with its mean and std of pixels; new fc unless the "
                 "classes are the same."),
    click.option("--split", help="Split of the dataset.  [default: 1, else its first]"),
    click.option("--batch-size", "global_batch_size", type=int,
                 help="GLOBAL: clips of an update, all processes together."),
    click.option("--lr", type=float, help="Base learning rate; nothing rescales it with the batch size."),
    click.option("--scale-lr", is_flag=True,
                 help="Multiply the preset's rate by as much as the global batch is larger than the preset's."),
    click.option("--seed", type=int, help="Of the initial weights and of the order of clips."),
    click.option("--model", type=Name(list(MODELS)), metavar="NAME",
                 help="Network; python -m train.models lists them."),
    click.option("--width", type=int, help="Channels of its first stage; the later ones have 2, 4, 8 times as many."),
    click.option("--num-frames", type=int, help="Frames of a clip."),
    click.option("--frame-stride", type=int, help="Source frames from one taken frame to the next."),
    click.option("--crop-size", type=int, help="Height and width of a clip, pixels."),
    click.option("--resize", type=int, help="Height of a frame before the crop, pixels."),
    click.option("--flip/--no-flip", default=None, show_default=False, help="Mirror half of the clips."),
    click.option("--freeze-bn", is_flag=True, default=None, show_default=False,
                 help="BN uses its running statistics and leaves them alone."),
    click.option("--shuffle-window", type=int, help="Shuffle within so many shards only, for slow disks."),
    click.option("--snap-to-keyframe", is_flag=True, default=None, show_default=False,
                 help="Clips begin at keyframes: less to decode, fewer different clips. H.264 shards only."),
    click.option("--eval-every", type=int, help="Steps between evaluations; 0: only at the end."),
    click.option("--eval-clips", type=int, help="Clips a video in the evaluation at the end."),
    click.option("--save-every", type=int, help="Steps between writes of latest.pt."),
    click.option("--keep-every", type=int, help="Steps between step-N.pt files that stay; 0: none."),
    click.option("--log-every", type=int, help="Steps between lines of metrics.jsonl."),
    click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]),
                 help="auto takes a GPU if there is one."),
    *EXECUTION_OPTIONS,
    click.option("--collective-timeout", "collective_timeout_s", default=COLLECTIVE_TIMEOUT_S,
                 type=Number(1, WEEK_S), help="Seconds that a process waits for the others before it gives up."),
    click.option("--quiet", is_flag=True, show_default=False, help="No progress: results and errors only."),
    click.option("--json", "as_json", is_flag=True, show_default=False,
                 help="The result as JSON; other lines go to stderr."),
]
EXECUTION = {
    "Loader": ["engine", "num_threads", "prefetch", "queue_depth", "num_pipelines", "hw_decoder_load",
               "fancy_upsampling", "read_ahead", "stall_timeout_s"],
    "Compute": ["fast", "compile", "cuda_graph", "space_to_depth", "high_priority"],
}
# fmt: on
COMMAND: dict[str, Any] = {
    "cls": TrainCommand,
    "context_settings": {"max_content_width": 110, "show_default": True},
    "epilog": EPILOG,
    "go_on": "the same command goes on from the last checkpoint",
    "headings": {
        "Data": ["data", "split"],
        "Recipe": ["preset", "steps", "global_batch_size", "lr", "model", "init_from", "seed"],
        "Run": ["out", "resume", "device", "quiet", "as_json"],
    },
    "rare": {
        "More of the recipe": ["scale_to_steps", "scale_lr", "width", "freeze_bn"],
        "Clips": ["num_frames", "frame_stride", "crop_size", "resize", "flip", "snap_to_keyframe", "shuffle_window"],
        "Evaluations and files": ["eval_every", "eval_clips", "save_every", "keep_every", "log_every"],
        **EXECUTION,
        "Processes": ["collective_timeout_s"],
        "Shards behind a URL": REMOTE,
    },
}


def train_options(command: Callable) -> Callable:
    """All options of the trainer, in the order of its help."""
    command = remote_options(command)
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def execution(
    options: dict[str, Any], ranks: Ranks, *, say: Callable[[str], object]
) -> tuple[LoaderSettings, StepOptions]:
    """Take the options that say how, not what, out of the command's; the device decides those left out.

    Args:
        say: Told in a line what --fast takes.

    Raises:
        WrongUsage: A value is not possible; says which and what is.
        UserError: There are no settings for --fast.
    """
    if options.pop("fast", False):
        source, path = click.get_current_context().get_parameter_source, fast_path()
        taken = {
            name: value
            for name, value in fast_options(card_of(ranks.device), path).items()
            if source(name) is not ParameterSource.COMMANDLINE
            and not (name == "cuda_graph" and ranks.world_size > 1)  # it was measured on one GPU, without DDP
        }
        options |= taken
        flags = [f"{name.replace('_', '-')} {value}" for name, value in taken.items()]
        say(f"--fast takes from {path}: {', '.join(flags) or 'nothing'}")
    loader = {name: options.pop(name) for name in (field.name for field in fields(LoaderSettings)) if name in options}
    step = {name: options.pop(name) for name in (field.name for field in fields(StepOptions)) if name in options}
    given = {name: value for name, value in step.items() if value is not None}
    with wrong_usage():
        given |= {"may_fall_back": False} if "compile" in given else {}
        settings, chosen = LoaderSettings(**loader), replace(default_options(ranks), **given)
        chosen.check(ranks.device)
    return settings, chosen


def defaults(preset: str | None, out: Path | None, *, index: ShardIndex, device: torch.device) -> tuple[str, Path, str]:
    """Preset and folder of a run, and a line about those that were left out; "" if none was."""
    chosen = []
    if preset is None:
        preset, why = OF_DATASETS.get(index.name, "ucf101-search"), f"the recipe for {index.name}"
        if device.type != "cuda":
            preset, why = "tiny", "the recipe for CPUs"
        elif PRESETS[preset].clip.crop_size > index.size:
            preset, why = "tiny", f"the recipe for pictures of {index.size} pixels"
        chosen.append(f"--preset {preset} ({why})")
    if out is None:
        out = Path("runs") / (re.sub(r"[^\w.-]", "-", index.name) + f"-{preset}")
        chosen.append(f"--out {out}")
    return preset, out, f"taking {' and '.join(chosen)}" if chosen else ""


def find_state(
    resume: str, out: Path, *, say: Callable[[str], None], note: Callable[[str], None]
) -> dict[str, Any] | None:
    """The state of the checkpoint that --resume asks for; None to start at step 0.

    Args:
        say: Told in a line of what is wrong.
        note: Told where the run begins.
    """
    if resume == "never":
        if any(out.glob("*.pt")):
            raise WrongUsage(f"--out: {out} already holds a run; leave out --resume to go on, or choose another")
        return None
    if resume != "auto":
        if not Path(resume).is_file():
            raise WrongUsage(f"--resume: {resume} is no file; choose auto, never or a .pt file")
        return load_checkpoint(Path(resume))
    found = load_latest(out, say=say)
    note(
        f"going on from {found[0]} at step {found[1]['step']}"
        if found
        else f"{out} holds no checkpoint; starting at step 0"
    )
    return found[1] if found else None


def configure(
    preset: str,
    index: ShardIndex,
    *,
    world_size: int,
    split: str | None,
    scale_to_steps: int | None = None,
    scale_lr: bool = False,
    **options: Any,
) -> TrainConfig:
    """The preset with the command line's changes, checked against the dataset and the ranks.

    Raises:
        WrongUsage: Something does not fit; says what and the way out.
    """
    for scaled, name in ((scale_to_steps, "steps"), (scale_lr, "lr")):
        if scaled and options.get(name) is not None:
            flag = "--scale-to-steps" if name == "steps" else "--scale-lr"
            raise WrongUsage(f"--{name} and {flag} both decide the same; leave one of them out")
    split = split or ("1" if "1" in index.split_names else index.split_names[0])
    with wrong_usage():
        for subset in ("train", "test"):
            index.samples_of(split, subset)
        config = override(PRESETS[preset], split=split, **options)
        if scale_to_steps:
            config = scaled_to_steps(config, scale_to_steps)
        if scale_lr:
            config = scaled_lr(config, PRESETS[preset])
    if config.snap_to_keyframe and index.codec != "h264":
        raise WrongUsage(f"--snap-to-keyframe: {index.data_dir} holds filmstrips, which have none; leave it out")
    if config.global_batch_size % world_size:
        raise WrongUsage(
            f"--batch-size: {config.global_batch_size} clips cannot be shared by {world_size} processes; "
            f"choose a multiple of {world_size}"
        )
    return config


def pixels_as_trained(config: TrainConfig, state: dict[str, Any] | None) -> TrainConfig:
    """The configuration with pixels scaled as for the weights that the run starts from.

    Args:
        state: Of the checkpoint that has them, the run's own or another's; None for fresh weights.
    """
    if state is None:
        return config
    trained = from_dict(state["config"])
    return replace(config, mean=trained.mean, std=trained.std)
