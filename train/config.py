"""TrainConfig: everything that decides what a run computes; no paths, devices or thread counts."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from res3d_video.pipeline.augment import Augmentation
from res3d_video.pipeline.clip import ClipSpec, per_channel
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.plan import TrainPlan
from res3d_video.pipeline.settings import check_fields, described
from res3d_video.pipeline.typed_json import SchemaError, Text, convert
from res3d_video.train.models import MODELS, ModelConfig, check_clip

LOCK = ".trainer"  # file in a run folder that its trainer locks
MOST = 10**9  # of what is counted


@dataclass(frozen=True)
class OptimConfig:
    """SGD with momentum (the authors' solver files; paper.md 3.2)."""

    lr: float = described(0.01, "Base learning rate; nothing rescales it with the batch size.", 1e-12, 1000)
    momentum: float = described(0.9, "Of SGD.", 0, 1)
    weight_decay: float = described(
        5e-5, "On convolution and fc weights; BN scale and shift and the fc bias have none.", 0, 1
    )
    head_bias_lr_scale: float = described(2.0, "The fc bias learns this much faster.", 0, 1000)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over the steps of a run."""

    kind: Literal["step", "cosine"] = described(
        "step", "step multiplies by `decay_factor` every `decay_every` steps; cosine ends at 0."
    )
    decay_every: int = described(
        20_000, "Steps, counted from step 0; warm-up steps are among them. Of kind step only.", 1, MOST
    )
    decay_factor: float = described(0.1, "Of kind step only.", 0, 1)
    warmup_steps: int = described(0, "Steps of linear rise from lr / warmup_steps to lr.", 0, MOST)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class TrainConfig:
    """One run. The command line has the settings that are described here, but for `mean` and `std`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    clip: ClipSpec = field(default_factory=ClipSpec)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    steps: int = described(
        90_000,
        "Updates of the whole run; a cosine ends there, the breakpoints of a step schedule and the warm-up stay.",
        1,
        MOST,
    )
    global_batch_size: int = described(
        20, "GLOBAL: clips of an update, all processes together.", 1, 10**6, flag="--batch-size"
    )
    split: Text = "1"
    flip: bool = described(True, "Mirror half of the clips.", flag="--flip/--no-flip")
    shuffle_window: int | None = described(None, "Shuffle within so many shards only, for slow disks.", 1, MOST)
    canonical_groups: int = described(
        0,
        "Groups of shards, of which each process reads its own; a multiple of the processes. 0: none.  [default: of a "
        "large dataset behind a URL the smallest multiple of the batch from 64 on, else 0]",
        0,
        10**6,
    )
    snap_to_keyframe: bool = described(
        False, "Clips begin at keyframes: less to decode, fewer different clips. H.264 shards only."
    )
    # Clips are (pixel - mean) / std, pixels 0…255; one value or three, RGB. The paper: 128, not scaled.
    mean: float | tuple[float, ...] = 128.0
    std: float | tuple[float, ...] = 1.0
    loss: Literal["ce", "bce"] = described(
        "ce", "ce: one label a clip. bce: all labels, each with a probability.  [default: ce]"
    )
    augment: Augmentation = field(default_factory=Augmentation)
    mixup: float = described(0.0, "Blend pairs of clips by shares of Beta(ALPHA, ALPHA).", 0, 100, metavar="ALPHA")
    # With both, a pair of clips is blended or cut with equal probability; the share of a box is of Beta(ALPHA, ALPHA).
    cutmix: float = described(0.0, "Paste a box of one clip of a pair into the other.", 0, 100, metavar="ALPHA")
    label_smoothing: float = described(0.0, "Probability spread over all classes.", 0, 1, metavar="SHARE")
    ema: float = described(
        0.0,
        "Keep a moving average of the weights, like 0.999; evaluations are of it.",
        0,
        0.999999,
        metavar="DECAY",
    )
    freeze_bn: bool = described(False, "BN uses its running statistics and leaves them alone.")
    seed: int = described(0, "Of the initial weights and of the order of clips.", 0, 2**63 - 1)
    eval_every: int = described(5_000, "Steps between evaluations; 0: only at the end.", 0, MOST)
    eval_clips: int = described(10, "Clips a video in the evaluation at the end.", 1, 10_000)
    save_every: int = described(1_000, "Steps between writes of latest.pt.", 1, MOST)
    keep_every: int = described(0, "Steps between step-N.pt files that stay; 0: none.", 0, MOST)
    log_every: int = described(10, "Steps between lines of metrics.jsonl.", 1, MOST)

    def __post_init__(self) -> None:
        check_fields(self)
        if not all(abs(value) <= MOST for value in per_channel(self.mean)):
            raise UserError(f"mean must be numbers from {-MOST:,} to {MOST:,}, got {self.mean}")
        if not all(0 < value <= MOST for value in per_channel(self.std)):
            raise UserError(f"std must be numbers above 0, up to {MOST:,}, got {self.std}")
        check_clip(self.model.name, num_frames=self.clip.num_frames, crop_size=self.clip.crop_size)


# Options of the command that set a field of a nested dataclass: option -> (part, field).
PARTS = {
    "model": ("model", "name"),
    "width": ("model", "width"),
    "num_frames": ("clip", "num_frames"),
    "frame_stride": ("clip", "frame_stride"),
    "crop_size": ("clip", "crop_size"),
    "resize": ("clip", "resize"),
    "lr": ("optim", "lr"),
    **{field.name: ("augment", field.name) for field in dataclasses.fields(Augmentation)},
}

# A resumed run must agree on these, or it would silently be another experiment.
FIXED = {"model", "clip", "global_batch_size", "split", "flip", "shuffle_window", "canonical_groups",
         "snap_to_keyframe", "mean", "std", "augment", "mixup", "cutmix", "loss", "ema", "seed"}  # fmt: skip


def default_groups(global_batch_size: int, *, num_samples: int) -> int:
    """Groups of shards behind a URL: the smallest multiple of the global batch that is 64 or more.

    Every number of ranks that can share the batch can share these groups, so none needs another order. There are none,
    0, where a group would have fewer than 64 samples to shuffle; so small a dataset is downloaded by each machine.

    >>> [default_groups(batch, num_samples=9537) for batch in (16, 20, 40, 64, 320)]
    [64, 80, 80, 64, 0]
    """
    groups = -(-64 // global_batch_size) * global_batch_size
    return groups if num_samples >= 64 * groups else 0


def train_plan(index: ShardIndex, config: TrainConfig) -> TrainPlan:
    """The training plan of a configuration."""
    return TrainPlan(
        index,
        index.samples_of(config.split, "train"),
        config.clip,
        global_batch_size=config.global_batch_size,
        seed=config.seed,
        flip=config.flip,
        shuffle_window=config.shuffle_window,
        canonical_groups=config.canonical_groups,
        start_multiple=index.gop_size if config.snap_to_keyframe else 1,
        augmentation=config.augment,
    )


def override(config: TrainConfig, **values: Any) -> TrainConfig:
    """The configuration with some fields, or keys of PARTS, replaced; None keeps a field.

    Another model gets its own default width, unless the configuration's width was not the default.
    """
    changes = {name: value for name, value in values.items() if value is not None}
    if changes.get("model") in MODELS and config.model.width == MODELS[config.model.name].width:
        changes.setdefault("width", MODELS[changes["model"]].width)
    parts: dict[str, dict[str, Any]] = {}
    for option, (part, name) in PARTS.items():
        if option in changes:
            parts.setdefault(part, {})[name] = changes.pop(option)
    nested = {part: dataclasses.replace(getattr(config, part), **new) for part, new in parts.items()}
    return dataclasses.replace(config, **changes, **nested)


def scaled_to_steps(config: TrainConfig, num_steps: int) -> TrainConfig:
    """The same recipe in fewer or more steps: breakpoints and warm-up keep their relative place.

    >>> shorter = scaled_to_steps(TrainConfig(), 900)
    >>> shorter.steps, shorter.schedule.decay_every
    (900, 200)
    """
    part = num_steps / config.steps
    schedule = dataclasses.replace(
        config.schedule,
        decay_every=max(round(config.schedule.decay_every * part), 1),
        warmup_steps=round(config.schedule.warmup_steps * part),
    )
    return dataclasses.replace(config, steps=num_steps, schedule=schedule)


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The configuration as dicts, lists, numbers and strings, for JSON and checkpoints."""
    return dataclasses.asdict(config, dict_factory=with_lists)


def with_lists(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict whose tuples are lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in items}


def from_dict(values: dict[str, Any]) -> TrainConfig:
    """The inverse of `to_dict`.

    Raises:
        SchemaError: A field is unknown, so another version of this code wrote it; or a value is out of range.
    """
    config = convert(values, TrainConfig)
    if unknown := set(flat(values)) - set(flat(to_dict(config))):
        raise SchemaError(f"config: {min(unknown)!r:.80} is unknown; it was written by another version of the trainer")
    return config


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """Values of nested dicts in one dict, under names like "optim.lr"."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= (
            {f"{name}.{key}": one for key, one in flat(value).items()} if isinstance(value, dict) else {name: value}
        )
    return found


def differences(config: TrainConfig, other: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Fields that differ, nested ones as "optim.lr": (value, other value)."""
    theirs = flat(to_dict(other))
    return {name: (ours, theirs[name]) for name, ours in flat(to_dict(config)).items() if ours != theirs[name]}


def is_due(step: int, every: int) -> bool:
    """Whether something that happens every `every` steps is due; never if `every` is 0.

    >>> [step for step in range(1, 8) if is_due(step, 3)], is_due(3, 0)
    ([3, 6], False)
    """
    return every > 0 and step % every == 0


def lr_at(step: int, schedule: ScheduleConfig, *, lr: float, num_steps: int) -> float:
    """Learning rate of the update that follows `step` finished updates; a cosine ends at `num_steps`.

    >>> lr_at(19_999, ScheduleConfig(), lr=0.01, num_steps=90_000)
    0.01
    >>> lr_at(20_000, ScheduleConfig(), lr=0.01, num_steps=90_000)
    0.001
    """
    if step < schedule.warmup_steps:
        return lr * (step + 1) / schedule.warmup_steps
    if schedule.kind == "step":
        return lr * schedule.decay_factor ** (step // schedule.decay_every)
    progress = (step - schedule.warmup_steps) / max(num_steps - schedule.warmup_steps, 1)
    return lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
