"""How fast a model is here, and what memory it takes."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from train.models import ModelConfig, build_model
from train.optim import OptimConfig, build_optimizer
from train.precision import autocast
from train.ranks import Ranks
from train.step import WARMUP_STEPS, TrainStep

WARMUP = {"cpu": 1, "cuda": WARMUP_STEPS + 2}  # a CUDA graph is recorded after its own warm-up
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux


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
