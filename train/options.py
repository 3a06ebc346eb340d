"""The trainer's command line. Loads no torch, so that help and wrong options are answered at once."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from res3d_video.pipeline.augment import Augmentation
from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.settings import WEEK_S, LoaderSettings
from res3d_video.train.config import MOST, OptimConfig, TrainConfig
from res3d_video.train.data_options import DATA, REMOTE, remote_options
from res3d_video.train.models import MODELS, ModelConfig
from res3d_video.train.presets import PRESETS
from res3d_video.train.stopping import StopRequest, speaks_for_machine
from res3d_video.train.terminal import Command, Name, Number, field_options, with_options

EPILOG = """\b
Examples:
  torchrun train/main.py --data shards/sports1m
  torchrun --nproc-per-node 8 train/main.py --data shards/ucf101 --preset modern --out runs/modern
  python train/main.py --data shards/hmdb51 --split 2 --preset finetune-hmdb51 --out runs/hmdb51-2 \\
      --init-from runs/sports1m-sports1m/latest.pt
  python train/main.py --data s3://bucket/ucf101 --cache /scratch/shards --cache-limit 50GB --preset tiny --out runs/s3

\b
SIGTERM, SIGUSR1 and Ctrl-C finish the step and save; the same command then goes on as if nothing had happened. A second
Ctrl-C, or one before the run has begun, ends at once. A signal to one process stops all of a run; torchrun passes it
on, but itself ends with code 1.
Exit codes: 0 done, or stopped by SIGTERM or SIGUSR1; 1 failure; 2 wrong usage; 130 Ctrl-C.
"""

COLLECTIVE_TIMEOUT_S = 600.0  # twice what a loader waits for a batch (pipeline/settings.py), so that it speaks first
NEW_FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class TrainCommand(Command):
    """The trainer's command: of several processes under torchrun, only one prints an error.

    Args:
        stop: To know whether this process was asked to stop, as torchrun does after another one has failed.
    """

    def __init__(self, *args: Any, stop: StopRequest | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stop = stop

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command in this process, or in a test."""
        stop = self._stop
        if stop is None:
            return super().main(*args, **kwargs)
        try:
            code = super().main(*args, **kwargs | {"standalone_mode": False})
        except click.ClickException as error:
            if speaks_for_machine(is_ended=stop.is_told):
                error.show()
            code = error.exit_code
        stop.close()
        raise SystemExit(code)


# fmt: off
EXECUTION_OPTIONS = [  # handled by `resolve.execution`; they do not change what a run computes
    click.option("--fast", is_flag=True, show_default=False,
                 help="Take what tools/check_gpu.py found exact and faster here; options that are given win."),
    *field_options(LoaderSettings),
    click.option("--compile/--no-compile", default=None, show_default=False,
                 help="torch.compile.  [default: on a GPU, where it works]"),
    click.option("--cuda-graph/--no-cuda-graph", default=None, show_default=False,
                 help="Forward and backward pass replayed as one CUDA graph.  [default: off]"),
    click.option("--space-to-depth/--no-space-to-depth", default=None, show_default=False,
                 help="The first convolution on 2x2 blocks of pixels.  [default: off]"),
    click.option("--high-priority/--no-high-priority", default=None, show_default=False,
                 help="The model's kernels go before the loader's.  [default: off]"),
]
AUGMENTATIONS = [field.name for field in fields(Augmentation)]
AUGMENT_OPTIONS = field_options(Augmentation, unset=True)  # zeros switch one off
OPTIONS = [
    click.option("--data", required=True, type=DATA, help="Shards: a folder, or a URL like s3://bucket/shards."),
    click.option("--preset", type=Name(list(PRESETS)), metavar="NAME",
                 help=f"Recipe: {', '.join(PRESETS)}.  [default: by the dataset; tiny without a GPU]"),
    click.option("--out", type=NEW_FOLDER, help="Folder of the run.  [default: runs/DATASET-PRESET]"),
    click.option("--scale-to-steps", type=click.IntRange(1, MOST),
                 help="Updates of the whole run, and the schedule keeps its shape: breakpoints and warm-up scale."),
    click.option("--resume", default="auto",
                 help="auto (go on in OUT if a run is there), never, or a checkpoint."),
    click.option("--init-from", type=FILE,
                 help="Start from this checkpoint's weights, with its network, clips and pixel scaling unless others "
                 "are given; new fc unless the classes are the same."),
    click.option("--split", help="Split of the dataset.  [default: 1, else its first]"),
    click.option("--model", type=Name(list(MODELS)), metavar="NAME",
                 help="Network; python -m res3d_video.train.models lists them."),
    *field_options(ModelConfig, ["width"], unset=True),
    *field_options(OptimConfig, ["lr"], unset=True),
    *field_options(ClipSpec, unset=True),
    *field_options(TrainConfig, unset=True),
    *AUGMENT_OPTIONS,
    click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]),
                 help="auto takes a GPU if there is one."),
    *EXECUTION_OPTIONS,
    click.option("--collective-timeout", "collective_timeout_s", default=COLLECTIVE_TIMEOUT_S,
                 type=Number(1, WEEK_S), help="Seconds that a process waits for the others before it gives up."),
    click.option("--log", "tracker", type=click.Choice(["wandb", "trackio"]),
                 help="Also log there, where it is installed; metrics.jsonl and TensorBoard are always written."),
    click.option("--quiet", is_flag=True, show_default=False, help="No progress: results and errors only."),
    click.option("--json", "as_json", is_flag=True, show_default=False,
                 help="The result as JSON; other lines go to stderr."),
]
EXECUTION = {
    "Loader": [field.name for field in fields(LoaderSettings)],
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
        "Run": ["out", "resume", "device", "tracker", "quiet", "as_json"],
    },
    "rare": {
        "More of the recipe": ["scale_to_steps", "width", "freeze_bn", "loss"],
        "Clips": ["num_frames", "frame_stride", "crop_size", "resize", "flip", "snap_to_keyframe"],
        "Order": ["shuffle_window", "canonical_groups"],
        "Augmentation": [*AUGMENTATIONS, "mixup", "cutmix", "label_smoothing", "ema"],
        "Evaluations and files": ["eval_every", "eval_clips", "save_every", "keep_every", "log_every"],
        **EXECUTION,
        "Processes": ["collective_timeout_s"],
        "Shards behind a URL": REMOTE,
    },
}


def train_options(command: Callable) -> Callable:
    """All options of the trainer, in the order of its help."""
    return with_options(*OPTIONS)(remote_options(command))
