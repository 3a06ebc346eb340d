"""What each model costs, beside what arXiv:1708.05038 prints, and why the two differ; how fast it is here."""

import functools
import statistics
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from res3d_video.train.config import OptimConfig
from res3d_video.train.models import MODELS, ModelConfig, build_model
from res3d_video.train.ranks import Ranks
from res3d_video.train.step import WARMUP_STEPS, TrainStep, autocast, build_optimizer
from res3d_video.train.terminal import text_table

WARMUP = {"cpu": 1, "cuda": WARMUP_STEPS + 2}  # a CUDA graph is recorded after its own warm-up
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux
HEADER = ["model", "width", "clip", "parameters", "printed", "multiply-adds", "printed"]
MEASURED = ["forward clips/s", "step clips/s", "peak memory"]


@dataclass(frozen=True)
class Printed:
    """A row of the paper's tables; None where it prints nothing.

    Attributes:
        parameters_m: Millions.
        multiply_adds_g: Milliards, 1e9.
    """

    parameters_m: float | None = None
    multiply_adds_g: float | None = None
    note: str = ""


FITTED = "Width fitted to the 33.2M parameters of depth 18; the paper's own widths and results are not known to us."
LOW = "The printed multiply-adds are {} % low with any kind of shortcut, as all the paper's are but those of C3D."

PRINTED = {
    "res3d18": Printed(33.2, 19.3, LOW.format(6) + " The authors' later table has 20.3 G, which is r3d_18 on 8 frames. "
                       "With the 487 classes of Sports-1M it has 33.4M; section 4 prints the 33.2M of 101 classes."),
    "res3d34": Printed(63.5, 36.7, LOW.format(3)),
    **{f"sr{depth}-33m": Printed(note=FITTED) for depth in (10, 16, 26, 34)},
    "sr18": Printed(33.2, 10.3, LOW.format(5)),
    "sr18-56": Printed(33.2, 2.6, "Stem 3x5x5, stride 1x1x1, as the text has it; the printed 2.6 G need 1x2x2, "
                       "which is sr18-56-table5."),
    "sr18-224": Printed(33.3, 42.9, "Stem 3x11x11, stride 1x4x4, as the text has it; the printed 42.9 G need 1x2x2, "
                        "which is sr18-224-table5."),
    "sr18-56-table5": Printed(33.2, 2.6, "Stem stride 1x2x2, which the multiply-adds of Table 5 need. "
                              + LOW.format(6)),
    "sr18-224-table5": Printed(33.3, 42.9, "Stem stride 1x2x2, which the multiply-adds of Table 5 need. "
                               + LOW.format(6)),
    **{f"{kind}{n}": Printed(note=FITTED) for kind in ("mc", "rmc") for n in (2, 3, 4, 5)},
    "r2plus1d18": Printed(note="Parameters match those of res3d18 by its middle widths."),
    "res2d18": Printed(11.2, 1.6, LOW.format(8)),
    "res2d34": Printed(21.5, 3.5, "Table 3 prints 21.5M; the layer table has 21.3M with any kind of shortcut: "
                       "unexplained. " + LOW.format(2)),
    "res2d18-33m": Printed(note=FITTED),
    "c3d": Printed(72.9, 38.5, "Printed for 487 classes, which make 79.99M. Without one 512-to-512 convolution it "
                   "would be 72.91M, so the printed number looks like a miscount."),
    "r3d_18": Printed(note="torchvision's: res3d18 with an identity shortcut in res2a; 33,371,472 for 400 classes."),
    "mc3_18": Printed(note="torchvision's: mc3 of width 64 with an identity shortcut in res2a; 11,695,440 for 400."),
    "r2plus1d_18": Printed(note="torchvision's: r2plus1d18 with an identity shortcut in res2a and the same middle "
                           "width twice in a block; 31,505,325 for 400."),
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """A model on the clip of its protocol.

    Attributes:
        multiply_adds: Of one clip: convolutions, shortcuts and fc.
    """

    model: str
    width: int
    num_frames: int
    crop_size: int
    num_classes: int
    parameters: int
    multiply_adds: int
    printed: Printed

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what is printed is nested."""
        return asdict(self)


def cost_of(name: str, *, num_classes: int, width: int | None = None) -> Cost:
    """Count a model's parameters and multiply-adds; takes milliseconds, for nothing is computed.

    Args:
        width: None is the model's own.

    Raises:
        ValueError: There is no such model, or the width is not possible.
    """
    config = ModelConfig(name, width=width)
    entry = MODELS[name]
    clip_shape = (3, entry.num_frames, entry.crop_size, entry.crop_size)
    parameters, multiply_adds = count_costs(config, num_classes=num_classes, clip_shape=clip_shape)
    assert config.width is not None
    return Cost(
        name,
        config.width,
        entry.num_frames,
        entry.crop_size,
        num_classes,
        parameters,
        multiply_adds,
        PRINTED.get(name, Printed()) if config.width == entry.width else Printed(),
    )


@functools.cache
def count_costs(config: ModelConfig, *, num_classes: int, clip_shape: tuple[int, int, int, int]) -> tuple[int, int]:
    """Parameters of a network, and multiply-adds of one of its clips (3, T, H, W); nothing is computed."""
    with torch.device("meta"):
        model = build_model(config, num_classes=num_classes)
    return count_parameters(model), count_multiply_adds(model, clip_shape=clip_shape)


def count_parameters(model: nn.Module) -> int:
    """Trained numbers; BN's running statistics are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_multiply_adds(model: nn.Module, *, clip_shape: tuple[int, int, int, int]) -> int:
    """Multiply-adds of convolutions, shortcuts included, and fully connected layers for a clip (3, T, H, W).

    The model is not run: build it under `torch.device("meta")` and counting takes milliseconds.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *clip_shape, device=device))
    model.train(was_training)
    return counter.get_total_flops() // 2  # the counter takes a multiply-add for two operations


@dataclass(frozen=True)
class Speed:
    """Medians over the repeats.

    Attributes:
        forward_clips_per_s: Inference, as in evaluation.
        step_clips_per_s: A whole update as the trainer executes it on this machine.
        peak_bytes: The most memory that either took, weights included: on a GPU torch's tensors, on a CPU the growth of
            the process; None where the system does not tell.
    """

    forward_clips_per_s: float
    step_clips_per_s: float
    peak_bytes: int | None


def measure(
    config: ModelConfig,
    *,
    clip_shape: tuple[int, int, int, int],
    num_classes: int,
    batch_size: int,
    device: torch.device,
    repeats: int = 3,
) -> Speed:
    """Time the forward pass and the training step on random clips (3, T, H, W), after a warm-up of each."""
    before = start_peak(device)
    model = build_model(config, num_classes=num_classes).to(device)
    optimizer = build_optimizer(model, OptimConfig(), fused=device.type == "cuda")
    step = TrainStep(model, optimizer, ranks=Ranks(device=device))
    clips = torch.randn(batch_size, *clip_shape, device=device)
    clips = clips.contiguous(memory_format=torch.channels_last_3d)  # as the loader has them
    labels = torch.arange(batch_size, device=device) % num_classes
    weights = torch.ones(batch_size, device=device)

    def update() -> None:
        step(clips, labels, weights, num_real_global=batch_size, lr=1e-6)

    def infer() -> None:
        with torch.inference_mode(), autocast(device):
            model(clips)

    with step.on_stream():
        step_s = _median_s(update, device=device, repeats=repeats)
        model.eval()
        forward_s = _median_s(infer, device=device, repeats=repeats)
    peak = read_peak(device)
    return Speed(batch_size / forward_s, batch_size / step_s, None if peak is None else peak - before)


def _median_s(work: Callable[[], None], *, device: torch.device, repeats: int) -> float:
    taken = []
    for _ in range(WARMUP[device.type] + repeats):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # sync: what is timed must have ended
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[-repeats:])


def start_peak(device: torch.device) -> int:
    """Forget earlier peaks; bytes in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        CLEAR_REFS.write_text("5")  # proc(5): the peak becomes what is resident now
    except OSError:
        return 0
    return _status_bytes("VmRSS") or 0


def read_peak(device: torch.device) -> int | None:
    """The most bytes in use since `start_peak`; None where the system does not tell."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status_bytes("VmHWM")


def _status_bytes(name: str) -> int | None:
    """A line of /proc/self/status such as "VmHWM:  1234 kB"; None off Linux."""
    if not STATUS.is_file():
        return None
    values = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
    return int(values[name].split()[0]) * 1024 if name in values else None


def table(costs: list[Cost], speeds: list[Speed]) -> list[str]:
    """Aligned lines: a header, then a model a line."""
    rows = [HEADER + (MEASURED if speeds else [])]
    for i, cost in enumerate(costs):
        clip, printed = f"{cost.num_frames}x{cost.crop_size}x{cost.crop_size}", cost.printed
        row = [cost.model, str(cost.width), clip, f"{cost.parameters:,}", million(printed.parameters_m)]
        row += [f"{cost.multiply_adds / 1e9:.3f} G", milliard(printed.multiply_adds_g)]
        rows.append(row + (speed_cells(speeds[i]) if speeds else []))
    return text_table(rows[0], rows[1:])


def million(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}M"


def milliard(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} G"


def speed_cells(speed: Speed) -> list[str]:
    peak = "" if speed.peak_bytes is None else f"{speed.peak_bytes / 2**20:,.0f} MiB"
    return [f"{speed.forward_clips_per_s:.1f}", f"{speed.step_clips_per_s:.1f}", peak]


def notes(costs: list[Cost]) -> list[str]:
    """Why what is printed differs, once for all models that share a reason."""
    models: dict[str, list[str]] = {}
    for cost in costs:
        if cost.printed.note:
            models.setdefault(cost.printed.note, []).append(cost.model)
    lines = []
    for note, names in models.items():
        lines += ["", *textwrap.wrap(f"{', '.join(names)}: {note}", width=110)]
    return lines
