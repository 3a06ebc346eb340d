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
from res3d_video.pipeline.typed_json import SchemaError, Text, convert
from res3d_video.train.models import MODELS, ModelConfig, check_clip

LOCK = ".trainer"  # file in a run folder that its trainer locks


@dataclass(frozen=True)
class OptimConfig:
    """SGD with momentum (the authors' solver files; paper.md 3.2).

    Attributes:
        lr: Base learning rate for the global batch; never rescaled behind your back.
        head_bias_lr_scale: The fc bias learns this much faster.
        weight_decay: On convolution and fc weights; BN scale and shift and the fc bias have none.
    """

    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-5
    head_bias_lr_scale: float = 2.0


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate goes from step to step.

    Attributes:
        kind: "step" multiplies by `decay_factor` every `decay_every` steps; "cosine" ends at 0.
        decay_every: Steps, counted from step 0; warm-up steps are among them. Only for "step".
        warmup_steps: Steps of linear rise from lr / warmup_steps to lr.
    """

    kind: Literal["step", "cosine"] = "step"
    decay_every: int = 20_000
    decay_factor: float = 0.1
    warmup_steps: int = 0


@dataclass(frozen=True)
class TrainConfig:
    """One run.

    Attributes:
        global_batch_size: Clips of one update, over all ranks.
        flip: Mirror half of the training clips.
        shuffle_window: Shuffle within a window of so many shards instead of the whole dataset.
        canonical_groups: Groups of shards, of which ranks have whole ones; 0 shuffles the whole dataset.
        snap_to_keyframe: Training clips begin at keyframes of H.264 shards, so that no frame is decoded in vain before
            them; there are fewer different clips.
        mean, std: Clips are (pixel - mean) / std, pixels 0…255; one value or three, RGB. The paper: 128, not scaled.
        loss: "ce", cross-entropy of one label a clip; or "bce", binary cross-entropy of each class.
        augment: Random changes of training clips beside crop and flip.
        mixup, cutmix: Parameter of the Beta distribution that shares of mixed clips are drawn from; 0 is off. With
            both, a pair of clips is blended or cut with equal probability.
        label_smoothing: Probability spread over all classes.
        ema: Decay of the moving average of the weights that is evaluated and saved beside them; 0 keeps none.
        freeze_bn: BN uses its running statistics and leaves them alone; its scale and shift still train.
        seed: Of the initial weights and of the plan.
        eval_every: Steps between evaluations on one centre clip a video; 0 evaluates at the end only.
        eval_clips: Clips a video in the evaluation at the end.
        save_every: Steps between writes of latest.pt.
        keep_every: Steps between step-N.pt files that stay; 0 keeps none.
        log_every: Steps between lines of metrics.jsonl.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    clip: ClipSpec = field(default_factory=ClipSpec)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    steps: int = 90_000
    global_batch_size: int = 20
    split: Text = "1"
    flip: bool = True
    shuffle_window: int | None = None
    canonical_groups: int = 0
    snap_to_keyframe: bool = False
    mean: float | tuple[float, ...] = 128.0
    std: float | tuple[float, ...] = 1.0
    loss: Literal["ce", "bce"] = "ce"
    augment: Augmentation = field(default_factory=Augmentation)
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    ema: float = 0.0
    freeze_bn: bool = False
    seed: int = 0
    eval_every: int = 5_000
    eval_clips: int = 10
    save_every: int = 1_000
    keep_every: int = 0
    log_every: int = 10

    def __post_init__(self) -> None:
        values = flat(to_dict(self))
        for name, (least, most) in BOUNDS.items():
            if values[name] is not None and not least <= values[name] <= most:  # nor is NaN
                raise UserError(f"{name}: {values[name]} is not possible; choose {least} to {most}")
        if not all(abs(value) <= MOST for value in per_channel(self.mean)):
            raise UserError(f"mean: {self.mean} is not possible; choose numbers up to {MOST}")
        if not all(0 < value <= MOST for value in per_channel(self.std)):
            raise UserError(f"std: {self.std} is not possible; choose numbers above 0, up to {MOST}")
        check_clip(self.model.name, num_frames=self.clip.num_frames, crop_size=self.clip.crop_size)


MOST = 10**9
BOUNDS: dict[str, tuple[float, float]] = {
    "steps": (1, MOST), "global_batch_size": (1, 10**6), "seed": (0, 2**63 - 1), "shuffle_window": (1, MOST),
    "canonical_groups": (0, 10**6), "mixup": (0, 100), "cutmix": (0, 100), "label_smoothing": (0, 1),
    "ema": (0, 0.999999), "eval_every": (0, MOST), "eval_clips": (1, 10_000), "save_every": (1, MOST),
    "keep_every": (0, MOST), "log_every": (1, MOST), "clip.num_frames": (1, 1024), "clip.crop_size": (1, 1024),
    "clip.resize": (1, 1024), "model.width": (1, 1024), "optim.lr": (1e-12, 1000), "optim.momentum": (0, 1),
    "optim.weight_decay": (0, 1), "optim.head_bias_lr_scale": (0, 1000), "schedule.decay_every": (1, MOST),
    "schedule.decay_factor": (0, 1), "schedule.warmup_steps": (0, MOST),
}  # fmt: skip

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
    """The plan that the trainer makes of a configuration."""
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
    """The configuration with other values of fields, or of keys of PARTS; None leaves a field as it is.

    Another model comes with its own width, unless the configuration had a width of its own.
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
    """The same recipe in fewer or more steps: breakpoints and warm-up keep their place in the run.

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
    """Plain dicts, lists, numbers and strings, for JSON and checkpoints."""
    return dataclasses.asdict(config, dict_factory=with_lists)


def with_lists(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict whose tuples are lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in items}


def from_dict(values: dict[str, Any]) -> TrainConfig:
    """The inverse of `to_dict`.

    Raises:
        SchemaError: A field is unknown, so another version of this code wrote it; or a value is not possible.
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
    """Whether something done every so many steps is due; never for 0.

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
