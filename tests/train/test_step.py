"""The training step: one update as it is written in a textbook, however it is executed."""

import copy
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partialmethod
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from res3d_video.pipeline.errors import UserError
from res3d_video.train import step as train_step
from res3d_video.train.config import OptimConfig
from res3d_video.train.mixing import Mixing
from res3d_video.train.models import ModelConfig, build_model
from res3d_video.train.ranks import Ranks
from res3d_video.train.step import WARMUP_STEPS, StepLoss, StepOptions, TrainStep

CPU = torch.device("cpu")
NUM_CLASSES = 5
LR = 0.01
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are slower on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batches(count: int, *, size: int = 4, device: torch.device = CPU) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Clips as the loader gives them, labels, and weights of which the last is 0."""
    generator = torch.Generator().manual_seed(1)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    for _ in range(count):
        clips = 60 * torch.randn(size, 4, 32, 32, 3, generator=generator)
        labels = torch.randint(NUM_CLASSES, (size,), generator=generator)
        weights = torch.tensor([1.0] * (size - 1) + [0.0])
        yield clips.to(device, dtype).permute(0, 4, 1, 2, 3), labels.to(device), weights.to(device)


def new_step(options: StepOptions | None = None, *, device: torch.device = CPU, **settings: object) -> TrainStep:
    torch.manual_seed(0)
    model = build_model(ModelConfig("res3d10", width=8), num_classes=NUM_CLASSES).to(device)
    optimizer = train_step.build_optimizer(model, OptimConfig(), fused=device.type == "cuda")
    return TrainStep(model, optimizer, ranks=Ranks(device=device), options=options, **settings)


def run(step: TrainStep, count: int, mixing: Mixing | None = None) -> list[StepLoss]:
    """So many steps; what each returned, looked at after the last."""
    device = step.ranks.device
    with step.on_stream():
        return [step(*batch, num_real_global=3, lr=LR, mixing=mixing) for batch in batches(count, device=device)]


def assert_close(step: TrainStep, other: TrainStep, *, count: int, rtol: float, mixing: Mixing | None = None) -> None:
    """So many steps give the same losses and weights, within a share of the largest."""
    for a, b in zip(run(step, count, mixing), run(other, count, mixing), strict=True):
        assert torch.allclose(a.losses, b.losses, rtol=rtol, atol=rtol)
        assert torch.allclose(a.loss, b.loss, rtol=rtol, atol=rtol)
    theirs = other.model.state_dict()
    for name, value in step.model.state_dict().items():
        assert (value - theirs[name]).abs().max() <= rtol * theirs[name].abs().max(), name


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}, {"freeze_bn": True}], ids=str)
def test_a_step_is_the_textbooks_to_the_last_bit(settings: dict) -> None:
    step = new_step(StepOptions(), **settings)
    model = train_step.channels_last(copy.deepcopy(step.model))
    optimizer = train_step.build_optimizer(model, OptimConfig(), fused=False)
    found = run(step, 3)
    for (clips, labels, weights), (loss, losses) in zip(batches(3), found, strict=True):
        model.train()
        if settings.get("freeze_bn"):
            train_step.freeze_batch_norm(model)
        train_step.set_lr(optimizer, LR)
        smoothing = settings.get("label_smoothing", 0.0)
        expected = F.cross_entropy(model(clips), labels, reduction="none", label_smoothing=smoothing)
        mean = (expected * weights).sum() / 3
        optimizer.zero_grad()
        mean.backward()
        optimizer.step()
        assert torch.equal(losses, expected)
        assert torch.allclose(loss, mean)
        assert not any(tensor.requires_grad for tensor in (loss, losses))
    assert all(torch.equal(value, step.model.state_dict()[name]) for name, value in model.state_dict().items())


def test_how_a_step_is_executed_changes_it_by_rounding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = partialmethod(nn.Module.compile, backend="aot_eager")  # all but the code generator, which takes a minute
    monkeypatch.setattr(nn.Module, "compile", traced)
    monkeypatch.setattr(train_step, "why_not_compiled", lambda device: None)
    for options in (StepOptions(space_to_depth=True), StepOptions(compile=True, space_to_depth=True)):
        assert_close(new_step(options), new_step(StepOptions()), count=3, rtol=1e-3)  # rounding grows from step to step


def test_what_a_cpu_or_two_processes_cannot_have_is_refused_with_the_way_out() -> None:
    ranks = Ranks(world_size=2, device=torch.device("cuda"))
    for options, place, message in (
        (StepOptions(cuda_graph=True), Ranks(), "cuda-graph: cpu has none; choose a GPU or --no-cuda-graph"),
        (StepOptions(high_priority=True), Ranks(), "high-priority: cpu has none; choose a GPU or --no-high-priority"),
        (StepOptions(cuda_graph=True), ranks, "cuda-graph: is for one process, not 2; use --no-cuda-graph"),
    ):
        with pytest.raises(UserError, match=f"^{message}$"):
            options.check(place)
    train_step.default_options(ranks).check(ranks)


def test_training_goes_on_without_a_compiler_but_for_an_explicit_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Mock(side_effect=RuntimeError("Failed to find C compiler.\n\na trace"))
    monkeypatch.setattr(torch, "compile", lambda function: broken)
    lines: list[str] = []
    step, plain = new_step(StepOptions(compile=True, may_fall_back=True), note=lines.append), new_step(StepOptions())
    assert lines == ["compile: Failed to find C compiler.; training without it"]
    assert_close(step, plain, count=1, rtol=0)
    with pytest.raises(UserError, match=r"^compile: Failed to find C compiler\.; use --no-compile$"):
        new_step(StepOptions(compile=True))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> TrainStep:
    """A step that records on a CPU: a replay computes the pass anew, and overwrites gradients as a graph's does."""
    step = new_step(StepOptions())
    step.options = replace(step.options, cuda_graph=True)

    def record(work: Callable[[], None], stream: None) -> Callable[[], None]:
        assert all(parameter.grad is None for parameter in step.model.parameters())
        return lambda: (step.optimizer.zero_grad(), work())[0]

    monkeypatch.setattr(train_step, "record_graph", record)
    return step


MIXED = Mixing(np.float32([0.2, 0.2, 0.75, 0.75]), np.array([[0, 0, 0, 0]] * 2 + [[0, 0, 16, 16]] * 2))


@pytest.mark.parametrize("mixing", [None, MIXED], ids=["plain", "mixed"])
def test_a_recorded_step_goes_on_from_the_eager_ones_and_gives_their_numbers(
    recorded: TrainStep, mixing: Mixing | None
) -> None:
    assert_close(recorded, new_step(StepOptions()), count=WARMUP_STEPS + 4, rtol=1e-6, mixing=mixing)
    (other,) = batches(1, size=2)
    with pytest.raises(UserError, match=r"clips: \[2, 3, 4, 32, 32\] torch.float32, but .*\[4, 3, 4, 32, 32\]"):
        recorded(*other, num_real_global=2, lr=LR)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("high_priority", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_cuda_graph_gives_the_numbers_of_the_eager_steps(high_priority: bool, compiled: bool) -> None:
    options = StepOptions(compile=compiled, space_to_depth=True)
    plain = new_step(options, device=torch.device("cuda"), freeze_bn=True)
    options = replace(options, cuda_graph=True, high_priority=high_priority)
    graphed = new_step(options, device=torch.device("cuda"), freeze_bn=True)
    found, expected = run(graphed, WARMUP_STEPS + 5), run(plain, WARMUP_STEPS + 5)
    assert graphed._replay is not None
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a.losses, b.losses, rtol=0.05, atol=0.05)  # bfloat16
    assert len({float(a.loss) for a in found}) == len(found)


@pytest.mark.gpu
@on_gpu
def test_what_cannot_be_recorded_is_one_line_with_the_way_out() -> None:
    program = """
import torch
from res3d_video.train.step import record_graph
try:
    record_graph(lambda: torch.zeros(1, device="cuda").item(), torch.cuda.Stream())  # a sync
except ValueError as error:
    print(error)
"""  # in a process of its own: a recording that was broken off leaves one unfit for more
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert re.fullmatch(r"cuda-graph: recording failed \(.*\); use --no-cuda-graph\n", done.stdout), done.stderr


@pytest.mark.gpu
@on_gpu
def test_the_host_waits_for_the_gpu_in_no_step() -> None:
    step = new_step(StepOptions(), device=torch.device("cuda"), ema=0.9)
    run(step, 1, MIXED)
    ready = list(batches(3, device=step.ranks.device))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in ready:
            step(*batch, num_real_global=3, lr=LR, mixing=MIXED)
    finally:
        torch.cuda.set_sync_debug_mode("default")
