"""One update of the model, in which precision, and how a machine executes it: eagerly, compiled, or as a CUDA graph."""

import gc
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from res3d_video.pipeline.errors import UserError
from res3d_video.train.config import OptimConfig
from res3d_video.train.models.stem import use_space_to_depth
from res3d_video.train.ranks import Ranks


def autocast(device: torch.device, *, enabled: bool = True) -> AbstractContextManager:
    """bfloat16 convolutions on a GPU (2.7 times the clips/s of float32 there); plain float32 on a CPU.

    Weights cast for one pass are not kept for another: each is used once, and a CUDA graph must hold its own casts.
    """
    enabled = enabled and device.type == "cuda"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled, cache_enabled=False)


def channels_last(model: nn.Module) -> nn.Module:
    """Move convolution weights to channels-last memory, 3D and 2D alike; in place.

    Res3D gains 1.7 times the clips/s on an H100 in bfloat16, 1.2 to 1.9 times on two CPU cores in float32.
    """
    for parameter in model.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
        elif parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def freeze_batch_norm(model: nn.Module) -> None:
    """Normalise with the running statistics and leave them alone; scale and shift still train."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.eval()


def build_optimizer(model: nn.Module, config: OptimConfig, *, fused: bool) -> torch.optim.SGD:
    """SGD over three groups: weights with decay; BN without; the fc bias without and with a faster rate."""
    decayed, undecayed, head_bias = [], [], []
    for name, parameter in model.named_parameters():
        if name == "head.bias":
            head_bias.append(parameter)
        elif parameter.dim() == 1:
            undecayed.append(parameter)
        else:
            decayed.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay, "lr_scale": 1.0},
        {"params": undecayed, "weight_decay": 0.0, "lr_scale": 1.0},
        {"params": head_bias, "weight_decay": 0.0, "lr_scale": config.head_bias_lr_scale},
    ]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use `lr`, times each group's own scale, from the next update on."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


WARMUP_STEPS = 3  # before a CUDA graph is recorded, as torch's documentation has it; all of them count


@dataclass(frozen=True)
class StepOptions:
    """How a step is executed; nothing here changes what it computes by more than rounding.

    Attributes:
        compile: torch.compile of the model.
        may_fall_back: Go on without it where it does not work, for want of a C compiler perhaps.
        cuda_graph: Forward pass, loss and backward pass replayed as one CUDA graph: one launch instead of hundreds.
        space_to_depth: The stem as an equivalent convolution on 2x2 blocks of pixels (train/models/stem.py).
        folded_channels: Channels of such a block, 12 or 16.
        high_priority: The step's kernels go before those of the loader (a CUDA stream of high priority).
        channels_last: Weights and activations in channels-last memory.
        cudnn_benchmark: cuDNN times its algorithms and keeps the fastest. A setting of the whole process.
    """

    compile: bool = False
    may_fall_back: bool = False
    cuda_graph: bool = False
    space_to_depth: bool = False
    folded_channels: int = 16
    high_priority: bool = False
    channels_last: bool = True
    cudnn_benchmark: bool = False

    def check(self, device: torch.device) -> None:
        """Refuse what the device does not have.

        Raises:
            ValueError: Says which option, and the way out.
        """
        for name in ("cuda_graph", "high_priority"):
            if getattr(self, name) and device.type != "cuda":
                flag = name.replace("_", "-")
                raise UserError(f"{flag}: {device} has none; choose a GPU or --no-{flag}")


def default_options(ranks: Ranks) -> StepOptions:
    """What has been proven there (docs/decisions/0017-safe-defaults-on-a-gpu.md)."""
    if ranks.device.type != "cuda":
        return StepOptions(folded_channels=12)
    return StepOptions(compile=True, may_fall_back=True, cudnn_benchmark=True)


class StepLoss(NamedTuple):
    """What a step found, without its graph of gradients; later steps leave it alone.

    Attributes:
        loss: This rank's share, scaled so that the mean over ranks is the global loss.
        losses: float32 [N], of each clip.
    """

    loss: Tensor
    losses: Tensor


class TrainStep:
    """Steps of SGD on a model.

    On a GPU everything that reads or writes the model belongs inside `on_stream`, iterating the loader too; then the
    loader hands its batches to the step's stream.

    Args:
        model: On its device; changed in place: memory layout, the stem's way, compilation. The names and shapes of
            its weights stay.
        optimizer: Over the parameters of `model`; its gradients belong to this object from now on.
        options: None takes `default_options`.
        bfloat16: Convolutions in bfloat16 on a GPU; False is float32.
        note: Called with a line where an option is given up.

    Raises:
        ValueError: The device has not what an option asks for.

    Example:
        step = TrainStep(model, optimizer, ranks=ranks)
        with step.on_stream():
            for batch in loader:
                found = step(batch.clips, batch.labels, batch.weights, num_real_global=batch.num_real_global, lr=0.01)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        ranks: Ranks,
        options: StepOptions | None = None,
        label_smoothing: float = 0.0,
        freeze_bn: bool = False,
        bfloat16: bool = True,
        note: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.model, self.optimizer, self.ranks = model, optimizer, ranks
        self.options = options = options or default_options(ranks)
        self.label_smoothing, self.freeze_bn, self.bfloat16 = label_smoothing, freeze_bn, bfloat16
        self._note, self._is_proven = note, not options.compile  # that the model runs as it is
        self._is_forward_done = False
        options.check(ranks.device)
        if options.channels_last:
            channels_last(model)
        if options.space_to_depth:
            use_space_to_depth(model, channels=options.folded_channels)
        if options.cudnn_benchmark:
            torch.backends.cudnn.benchmark = True
        if options.compile:
            model.compile()  # in place, so the names of weights stay
        self.stream: torch.cuda.Stream | None = None
        if options.cuda_graph or options.high_priority:  # a graph cannot be recorded on the default stream
            self.stream = torch.cuda.Stream(ranks.device, priority=-1 if options.high_priority else 0)
        self._net: nn.Module = model
        if ranks.world_size > 1:
            if options.cuda_graph:  # it cannot hold DDP's hooks, so gradients are averaged after the pass
                ranks.broadcast(model.parameters())  # collective; DDP does the same
            else:  # no broadcast of BN statistics: each rank has its own, rank 0's count
                is_new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # torch 2.13
                alone: dict[str, Any] = {"forward_sync_buffers" if is_new else "broadcast_buffers": False}
                with self.on_stream():  # its hooks work on the stream that is current now
                    self._net = DistributedDataParallel(model, gradient_as_bucket_view=True, **alone)
                for parameter in model.parameters():
                    if 1 in parameter.shape:
                        parameter.register_hook(partial(same_strides, parameter))
        self._num_warm = 0
        self._inputs: _Inputs | None = None
        self._replay: Callable[[], None] | None = None
        self._found: StepLoss | None = None  # the recorded pass writes into it

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        """Make the step's stream the current one; it begins after what was enqueued before, and what follows after it.

        Nothing happens on a CPU, or with neither `cuda_graph` nor `high_priority`.
        """
        if self.stream is None:
            yield
            return
        outside = torch.cuda.current_stream(self.ranks.device)
        self.stream.wait_stream(outside)
        with torch.cuda.stream(self.stream):
            yield
        outside.wait_stream(self.stream)

    def __call__(self, clips: Tensor, labels: Tensor, weights: Tensor, *, num_real_global: int, lr: float) -> StepLoss:
        """One update.

        Args:
            clips: [N, 3, T, H, W], float16 or float32.
            labels: int64 [N].
            weights: float32 [N]; 0 for a clip that must not count.
            num_real_global: Clips that count, over all ranks.
            lr: Base learning rate.

        Raises:
            ValueError: The model cannot be compiled or recorded here, or the batch does not fit the recorded graph.
        """
        set_lr(self.optimizer, lr)
        # Ranks average their gradients; scaled so, that is the gradient of the global mean.
        scale = self.ranks.world_size / num_real_global
        if self.options.cuda_graph:
            found = self._graphed(clips, labels, weights, scale)
            self.ranks.average_gradients(self.model.parameters())  # collective
        else:
            found = self._eager(clips, labels, weights, scale)
        self.optimizer.step()
        return found

    def _eager(self, clips: Tensor, labels: Tensor, weights: Tensor, scale: float | Tensor) -> StepLoss:
        self._prepare()
        if self._is_proven:
            return self._pass(clips, labels, weights, scale)
        device, buffers = self.ranks.device, [buffer.clone() for buffer in self.model.buffers()]
        rng, gpu_rng = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self._is_forward_done = False
        try:
            found = self._pass(clips, labels, weights, scale)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # Ranks need not agree: DDP averages the same gradients of a model that is compiled and of one that is not.
            # But in a backward pass that breaks off, some are averaged already.
            if not self.options.may_fall_back or (self.ranks.world_size > 1 and self._is_forward_done):
                if _is_compile_error(error):
                    raise UserError(f"compile: {_one_line(error)}; use --no-compile") from error
                raise
            self._note(f"compile: {_one_line(error)}; training without it")
            self.model._compiled_call_impl = None
            for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(before)
            torch.set_rng_state(rng)
            if gpu_rng is not None:
                torch.cuda.set_rng_state(gpu_rng, device)
            self._prepare()
            found = self._pass(clips, labels, weights, scale)  # what is wrong with more than compiling fails again
        self._is_proven = True
        return found

    def _graphed(self, clips: Tensor, labels: Tensor, weights: Tensor, scale: float) -> StepLoss:
        if self._inputs is None:
            self._inputs = _Inputs.like(clips, labels, weights)
        inputs = self._inputs
        inputs.fill(clips, labels, weights, scale)
        if self._replay is None and self._num_warm < WARMUP_STEPS:
            self._num_warm += 1
            return self._eager(inputs.clips, inputs.labels, inputs.weights, inputs.scale)
        if self._replay is None:
            self._prepare()  # there are no gradients now, so the recorded pass writes them and adds to nothing

            def work() -> None:
                self._found = self._pass(inputs.clips, inputs.labels, inputs.weights, inputs.scale)

            self._replay = record_graph(work, self.stream)
        self._replay()
        assert self._found is not None  # recorded
        return StepLoss(self._found.loss.clone(), self._found.losses.clone())

    def _prepare(self) -> None:
        """Modes of the layers, and no gradients."""
        self.model.train()
        if self.freeze_bn:
            freeze_batch_norm(self.model)
        self.optimizer.zero_grad(set_to_none=True)

    def _pass(self, clips: Tensor, labels: Tensor, weights: Tensor, scale: float | Tensor) -> StepLoss:
        """Forward pass, loss and backward pass: all that a CUDA graph holds."""
        if not self.options.channels_last:
            clips = clips.contiguous()  # copy: the loader's are channels-last
        if not self.bfloat16:
            clips = clips.float()  # copy on a GPU: the loader's are float16
        with autocast(self.ranks.device, enabled=self.bfloat16):
            logits = self._net(clips)  # [N, K]
        self._is_forward_done = True
        losses = F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=self.label_smoothing)  # [N]
        loss = (losses * weights).sum() * scale
        loss.backward()  # collective under DDP, which averages gradients meanwhile
        return StepLoss(loss.detach(), losses.detach())


@dataclass
class _Inputs:
    """The memory that a recorded pass reads its batch from."""

    clips: Tensor
    labels: Tensor
    weights: Tensor
    scale: Tensor

    @classmethod
    def like(cls, clips: Tensor, labels: Tensor, weights: Tensor) -> "_Inputs":
        scale = torch.zeros((), device=clips.device)
        return cls(torch.empty_like(clips), torch.empty_like(labels), torch.empty_like(weights), scale)

    def fill(self, clips: Tensor, labels: Tensor, weights: Tensor, scale: float) -> None:
        """Enqueue the copies of a batch.

        Raises:
            ValueError: Its shape or type is not that of the first one.
        """
        if (clips.shape, clips.dtype) != (self.clips.shape, self.clips.dtype):
            raise UserError(
                f"clips: {list(clips.shape)} {clips.dtype}, but the CUDA graph is of {list(self.clips.shape)} "
                f"{self.clips.dtype}; keep one batch size, or use --no-cuda-graph"
            )
        self.clips.copy_(clips, non_blocking=True)  # copy
        self.labels.copy_(labels, non_blocking=True)
        self.weights.copy_(weights, non_blocking=True)
        self.scale.fill_(scale)


def same_strides(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient, with the parameter's strides also along sides of 1, where they mean nothing.

    Convolutions by 1x1x1 choose them as they like, and DDP would take them for another layout (torch 2.13).

    >>> same_strides(torch.zeros(4, 2, 1, 1), torch.zeros(4, 1, 1, 2).permute(0, 3, 1, 2)).stride()
    (2, 1, 1, 1)
    """
    sides = zip(parameter.shape, gradient.stride(), parameter.stride(), strict=True)
    if all(size == 1 or theirs == ours for size, theirs, ours in sides):
        return gradient.as_strided(parameter.shape, parameter.stride())
    return gradient


def record_graph(work: Callable[[], None], stream: torch.cuda.Stream | None) -> Callable[[], None]:
    """Record the CUDA work of a function without doing it.

    Other threads' CUDA calls are none of the recording's business (thread_local): the loader's go on meanwhile.

    Returns:
        What does it, as often as one likes, on the current stream.

    Raises:
        ValueError: Something in it cannot be recorded.
    """
    gc.collect()  # dead cycles may hold GPU memory
    graph, outside = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):  # sync, once
            work()
    except RuntimeError as error:
        torch.cuda.set_stream(outside)  # torch.cuda.graph does not where ending the capture fails (torch 2.13)
        raise UserError(f"cuda-graph: recording failed ({_one_line(error)}); use --no-cuda-graph") from error
    return graph.replay


def _is_compile_error(error: RuntimeError) -> bool:
    from torch._dynamo.exc import TorchDynamoException  # slow to import, and here it has been already

    return isinstance(error, TorchDynamoException)


def _one_line(error: Exception) -> str:
    """Its first paragraph."""
    return " ".join(str(error).strip().split("\n\n")[0].split())[:200] or type(error).__name__
