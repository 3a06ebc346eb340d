"""The trainer's command line. Loads no torch, so that help and wrong options are answered at once."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from res3d_video.pipeline.augment import Augmentation
from res3d_video.pipeline.settings import ENGINES, WEEK_S, LoaderSettings
from res3d_video.train.config import MOST
from res3d_video.train.data_options import DATA, REMOTE, remote_options
from res3d_video.train.models import MODELS
from res3d_video.train.presets import PRESETS
from res3d_video.train.stopping import StopRequest, speaks_for_machine
from res3d_video.train.terminal import Command, Name, Number, with_options

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
LOADER = LoaderSettings()
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
            if speaks_for_machine(is_ended=stop.is_told):
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
PAIR: dict[str, Any] = {"type": float, "nargs": 2, "metavar": "LEAST MOST"}
AUGMENT_OPTIONS = [  # as Augmentation has them; zeros switch one off
    click.option("--random-resized-crop", **PAIR,
                 help="Crop random pieces of the picture with this share of its area, like 0.08 1."),
    click.option("--crop-ratio", **PAIR, help="Width of such a piece for a height of 1.  [default: 0.75 1.333]"),
    click.option("--scale-jitter", **PAIR | {"type": int},
                 help="Scale the short side to a random length before the crop, pixels, like 128 160."),
    click.option("--color-jitter", type=float, nargs=4, metavar="BRIGHTNESS CONTRAST SATURATION HUE",
                 help="Change colors by up to so much, like 0.4 0.4 0.4 0.1."),
    click.option("--grayscale", type=float, metavar="P", help="Probability that a clip loses its colors."),
    click.option("--erasing", type=float, metavar="P", help="Probability that a box of a clip is erased."),
]
AUGMENTATIONS = [field.name for field in fields(Augmentation)]
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
                 help="Start from this checkpoint's weights, with its network, clips and pixel scaling unless others "
                 "are given; new fc unless the classes are the same."),
    click.option("--split", help="Split of the dataset.  [default: 1, else its first]"),
    click.option("--batch-size", "global_batch_size", type=int,
                 help="GLOBAL: clips of an update, all processes together."),
    click.option("--lr", type=float, help="Base learning rate; nothing rescales it with the batch size."),
    click.option("--seed", type=int, help="Of the initial weights and of the order of clips."),
    click.option("--model", type=Name(list(MODELS)), metavar="NAME",
                 help="Network; python -m res3d_video.train.models lists them."),
    click.option("--width", type=int, help="Channels of its first stage; the later ones have 2, 4, 8 times as many."),
    click.option("--num-frames", type=int, help="Frames of a clip."),
    click.option("--frame-stride", type=int, help="Source frames from one taken frame to the next."),
    click.option("--crop-size", type=int, help="Height and width of a clip, pixels."),
    click.option("--resize", type=int, help="Height of a frame before the crop, pixels."),
    click.option("--flip/--no-flip", default=None, show_default=False, help="Mirror half of the clips."),
    *AUGMENT_OPTIONS,
    click.option("--mixup", type=float, metavar="ALPHA", help="Blend pairs of clips by shares of Beta(ALPHA, ALPHA)."),
    click.option("--cutmix", type=float, metavar="ALPHA", help="Paste a box of one clip of a pair into the other."),
    click.option("--label-smoothing", type=float, metavar="SHARE", help="Probability spread over all classes."),
    click.option("--ema", type=float, metavar="DECAY",
                 help="Keep a moving average of the weights, like 0.999; evaluations are of it."),
    click.option("--freeze-bn", is_flag=True, default=None, show_default=False,
                 help="BN uses its running statistics and leaves them alone."),
    click.option("--loss", type=click.Choice(["ce", "bce"]),
                 help="ce: one label a clip. bce: all labels, each with a probability.  [default: ce]"),
    click.option("--shuffle-window", type=int, help="Shuffle within so many shards only, for slow disks."),
    click.option("--canonical-groups", type=int,
                 help="Groups of shards, of which each process reads its own; a multiple of the processes. 0: none.  "
                 "[default: of a large dataset behind a URL the smallest multiple of the batch from 64 on, else 0]"),
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
    click.option("--log", "tracker", type=click.Choice(["wandb", "trackio"]),
                 help="Also log there, where it is installed; metrics.jsonl and TensorBoard are always written."),
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
