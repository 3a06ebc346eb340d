"""One update of the model: precision, optimizer, and execution, which is eager, compiled, or a CUDA graph."""

import copy
import gc
import inspect
import itertools
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
from torch.optim.swa_utils import get_ema_multi_avg_fn

from res3d_video.pipeline.errors import UserError, one_line
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import Batch
from res3d_video.train.config import OptimConfig
from res3d_video.train.mixing import Mixing, mix_clips, partners
from res3d_video.train.models.stem import use_space_to_depth
from res3d_video.train.ranks import Ranks


def autocast(device: torch.device) -> AbstractContextManager:
    """bfloat16 convolutions on a GPU (2.7 times the clips/s of float32 there); plain float32 on a CPU.

    Cast weights are not cached: each is used once a pass, and a CUDA graph must contain its own casts.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False)


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
    """How a step is executed; nothing here changes its result by more than rounding.

    Attributes:
        compile: torch.compile of the model.
        may_fall_back: Train without torch.compile if it does not work, such as without a C compiler.
        cuda_graph: Forward pass, loss and backward pass replayed as one CUDA graph: one launch instead of hundreds.
        space_to_depth: The stem as an equivalent convolution on 2x2 blocks of pixels (train/models/stem.py).
        high_priority: The step's kernels go before those of the loader (a CUDA stream of high priority).
        cudnn_benchmark: cuDNN times its algorithms and keeps the fastest. A setting of the whole process.
    """

    compile: bool = False
    may_fall_back: bool = False
    cuda_graph: bool = False
    space_to_depth: bool = False
    high_priority: bool = False
    cudnn_benchmark: bool = False

    def check(self, ranks: Ranks) -> None:
        """Raise UserError for options that the device does not support, and for a CUDA graph with several ranks."""
        for name in ("cuda_graph", "high_priority"):
            if getattr(self, name) and ranks.device.type != "cuda":
                flag = name.replace("_", "-")
                raise UserError(f"{flag}: {ranks.device} has none; choose a GPU or --no-{flag}")
        if self.cuda_graph and ranks.world_size > 1:  # it cannot hold DDP's hooks
            raise UserError(f"cuda-graph: is for one process, not {ranks.world_size}; use --no-cuda-graph")


def default_options(ranks: Ranks) -> StepOptions:
    """The options that are proven on the device (docs/decisions/0017-safe-defaults-on-a-gpu.md)."""
    on_gpu = ranks.device.type == "cuda"
    return StepOptions(compile=on_gpu, may_fall_back=on_gpu, cudnn_benchmark=on_gpu)


class StepLoss(NamedTuple):
    """The losses of a step, detached; later steps do not overwrite them."""

    loss: Tensor  # this rank's share, scaled so that the mean over ranks is the global loss
    losses: Tensor  # float32 [N], of each clip


class TrainStep:
    """Steps of SGD on a model.

    On a GPU everything that reads or writes the model must be inside `on_stream`, and so must the iteration over the
    loader, which then hands its batches to the step's stream.

    Args:
        model: On its device; changed in place: memory layout, stem, compilation. The names and shapes of its weights
            stay.
        optimizer: Over the parameters of `model`; its gradients belong to this object from now on.
        options: None takes `default_options`.
        ema: Decay of the exponential moving average of weights and BN statistics that `scored` has; 0 keeps none.
        note: Called with a line if an option is given up.

    Raises:
        UserError: The device does not support an option.

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
        ema: float = 0.0,
        note: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.model, self.optimizer, self.ranks = model, optimizer, ranks
        self.options = options = options or default_options(ranks)
        self.label_smoothing, self.freeze_bn = label_smoothing, freeze_bn
        options.check(ranks)
        channels_last(model)
        if options.space_to_depth:  # tensor cores take multiples of 8 channels
            use_space_to_depth(model, channels=16 if ranks.device.type == "cuda" else 12)
        if options.cudnn_benchmark:
            torch.backends.cudnn.benchmark = True
        if options.compile:
            reason = why_not_compiled(ranks.device)
            if reason is None:
                model.compile()  # in place, so the names of weights stay
            elif options.may_fall_back:
                note(f"compile: {reason}; training without it")
            else:
                raise UserError(f"compile: {reason}; use --no-compile")
        self.ema, self.num_averaged = ema, 0  # updates that the average has followed
        self.averaged = copy.deepcopy(model).requires_grad_(False) if ema else None
        self.stream: torch.cuda.Stream | None = None
        if options.cuda_graph or options.high_priority:  # a graph cannot be recorded on the default stream
            self.stream = torch.cuda.Stream(ranks.device, priority=-1 if options.high_priority else 0)
        self._net: nn.Module = model
        if ranks.world_size > 1:  # no broadcast of BN statistics: each rank has its own, rank 0's count
            is_new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # torch 2.13
            alone: dict[str, Any] = {"forward_sync_buffers" if is_new else "broadcast_buffers": False}
            with self.on_stream():  # its hooks work on the stream that is current now
                self._net = DistributedDataParallel(model, gradient_as_bucket_view=True, **alone)
            for parameter in model.parameters():
                if 1 in parameter.shape:
                    parameter.register_hook(partial(same_strides, parameter))
        # Of a CUDA graph: steps done before it is recorded, the memory that it reads its batch from, and its result.
        self._num_warm = 0
        self._inputs: tuple[Tensor, ...] | None = None
        self._replay: Callable[[], None] | None = None
        self._found: StepLoss | None = None

    @property
    def scored(self) -> nn.Module:
        """The network to evaluate: with averaged weights if there are any."""
        return self.model if self.averaged is None else self.averaged

    def load_average(self, weights: dict[str, Tensor], *, num_updates: int) -> None:
        """Resume from averaged weights of `num_updates` updates."""
        assert self.averaged is not None  # there is a decay
        self.averaged.load_state_dict(weights)
        self.num_averaged = num_updates

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        """Make the step's stream the current one, ordered after the work enqueued before and before what follows.

        Does nothing on a CPU, or with neither `cuda_graph` nor `high_priority`.
        """
        if self.stream is None:
            yield
            return
        outside = torch.cuda.current_stream(self.ranks.device)
        self.stream.wait_stream(outside)
        with torch.cuda.stream(self.stream):
            yield
        outside.wait_stream(self.stream)

    def __call__(
        self,
        clips: Tensor,
        labels: Tensor,
        weights: Tensor,
        *,
        num_real_global: int,
        lr: float,
        mixing: Mixing | None = None,
    ) -> StepLoss:
        """One update.

        Args:
            clips: [N, 3, T, H, W], float16 or float32.
            labels: int64 [N]; or float32 [N, K], 1 for each class that is right, for binary cross-entropy.
            weights: float32 [N]; 0 for a clip that must not count.
            num_real_global: Clips that count, over all ranks.
            lr: Base learning rate.
            mixing: How clips and labels are mixed; with a CUDA graph, for every step or for none.
        """
        set_lr(self.optimizer, lr)
        share: tuple[Tensor, ...] = ()
        if mixing is not None:
            share = (torch.from_numpy(mixing.share).to(clips.device, non_blocking=True),)  # copy, as is the next line
            clips = mix_clips(clips, share[0], torch.from_numpy(mixing.box).to(clips.device, non_blocking=True))
        # Ranks average their gradients; scaled so, that is the gradient of the global mean.
        scale = self.ranks.world_size / num_real_global
        if self.options.cuda_graph:
            found = self._graphed(clips, labels, weights, torch.full((), scale, device=clips.device), *share)
        else:
            found = self._eager(clips, labels, weights, scale, *share)
        self.optimizer.step()
        if self.averaged is not None:
            update_average(self.averaged, self.model, decay=self.ema, num_updates=self.num_averaged)
            self.num_averaged += 1
        return found

    def _graphed(self, clips: Tensor, *others: Tensor) -> StepLoss:
        if self._inputs is None:
            self._inputs = tuple(torch.empty_like(value) for value in (clips, *others))
        inputs = self._inputs
        if (clips.shape, clips.dtype) != (inputs[0].shape, inputs[0].dtype):
            raise UserError(
                f"clips: {list(clips.shape)} {clips.dtype}, but the CUDA graph is of {list(inputs[0].shape)} "
                f"{inputs[0].dtype}; keep one batch size, or use --no-cuda-graph"
            )
        for memory, value in zip(inputs, (clips, *others), strict=True):
            memory.copy_(value, non_blocking=True)  # copy
        if self._replay is None and self._num_warm < WARMUP_STEPS:
            self._num_warm += 1
            return self._eager(*inputs)
        if self._replay is None:
            self._prepare()  # without gradients, so that the recorded pass writes them and does not add to old ones

            def work() -> None:
                self._found = self._pass(*inputs)

            self._replay = record_graph(work, self.stream)
        self._replay()
        assert self._found is not None  # recorded
        return StepLoss(self._found.loss.clone(), self._found.losses.clone())

    def _eager(self, *inputs: Any) -> StepLoss:
        self._prepare()
        return self._pass(*inputs)

    def _prepare(self) -> None:
        """Set the modes of the layers and clear the gradients."""
        self.model.train()
        if self.freeze_bn:
            freeze_batch_norm(self.model)
        self.optimizer.zero_grad(set_to_none=True)

    def _pass(
        self, clips: Tensor, labels: Tensor, weights: Tensor, scale: float | Tensor, share: Tensor | None = None
    ) -> StepLoss:
        """Forward pass, loss and backward pass: the content of a CUDA graph.

        Args:
            scale: Of the loss.
            share: float32 [N], of a clip's own labels; the rest is its partner's. None if nothing is mixed.
        """
        with autocast(self.ranks.device):
            logits = self._net(clips)  # [N, K]
        losses = losses_of(logits.float(), labels, label_smoothing=self.label_smoothing)  # [N]
        if share is not None:  # both losses are linear in the labels
            others = losses_of(logits.float(), partners(labels), label_smoothing=self.label_smoothing)
            losses = share * losses + (1 - share) * others
        loss = (losses * weights).sum() * scale
        loss.backward()  # collective under DDP, which averages gradients meanwhile
        return StepLoss(loss.detach(), losses.detach())


def multi_hot(index: ShardIndex, batch: Batch) -> Tensor:
    """All labels of a batch's samples: float32 [N, K], 1 for each class that is right."""
    labels = torch.from_numpy(index.all_labels(batch.samples))  # [N, L], -1 where a sample has fewer
    labels = labels.to(batch.clips.device, non_blocking=True)  # copy
    hot = torch.zeros(len(labels), len(index.classes) + 1, device=labels.device)
    return hot.scatter_(1, labels % (len(index.classes) + 1), 1.0)[:, :-1]


def losses_of(logits: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
    """Cross-entropy [N] of int64 labels [N]; or of float labels [N, K] binary cross-entropy, averaged over classes."""
    if not labels.is_floating_point():
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    labels = labels * (1 - label_smoothing) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=1)


def update_average(averaged: nn.Module, model: nn.Module, *, decay: float, num_updates: int) -> None:
    """Let an average follow a model's weights and BN statistics; in place, and the host does not wait for a GPU.

    torch's AveragedModel counts updates in a tensor, which it reads back, or copies to the GPU, in each step: a sync
    (torch 2.13).

    Args:
        decay: At most (1 + n) / (10 + n) of it after n updates, so that the first weights are soon forgotten; after
            none the average becomes the model.
    """
    decay = min(decay, (1 + num_updates) / (10 + num_updates)) if num_updates else 0.0
    averages, values = (list(module.state_dict().values()) for module in (averaged, model))
    floats = [value.is_floating_point() for value in values]
    lists: list[Any] = [list(itertools.compress(tensors, floats)) for tensors in (averages, values)]
    get_ema_multi_avg_fn(decay)(*lists, 0)
    for average, value, is_float in zip(averages, values, floats, strict=True):
        if not is_float:  # BN's count of batches
            average.copy_(value)


def probabilities_of(logits: Tensor, *, loss: str) -> Tensor:
    """Probabilities float32 [N, K] of logits [N, K] of a network that was trained with a loss, "ce" or "bce"."""
    return logits.float().softmax(dim=1) if loss == "ce" else logits.float().sigmoid()


def why_not_compiled(device: torch.device) -> str | None:
    """torch.compile's error for a trivial function, as without a C compiler; None if it works."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(1, device=device))
    except RuntimeError as error:
        return one_line(error)
    return None


def same_strides(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with the parameter's strides also along sides of 1, where strides have no effect.

    Convolutions of 1x1x1 choose other strides there, which DDP takes for another layout (torch 2.13).

    >>> same_strides(torch.zeros(4, 2, 1, 1), torch.zeros(4, 1, 1, 2).permute(0, 3, 1, 2)).stride()
    (2, 1, 1, 1)
    """
    sides = zip(parameter.shape, gradient.stride(), parameter.stride(), strict=True)
    if all(size == 1 or theirs == ours for size, theirs, ours in sides):
        return gradient.as_strided(parameter.shape, parameter.stride())
    return gradient


def record_graph(work: Callable[[], None], stream: torch.cuda.Stream | None) -> Callable[[], None]:
    """Record the CUDA work of a function without executing it; returns a function that replays it.

    CUDA calls of other threads, such as the loader's, go on during the recording (thread_local).
    """
    gc.collect()  # dead cycles may hold GPU memory
    graph, outside = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):  # sync, once
            work()
    except RuntimeError as error:
        torch.cuda.set_stream(outside)  # torch.cuda.graph does not restore it if ending the capture fails (torch 2.13)
        raise UserError(f"cuda-graph: recording failed ({one_line(error)}); use --no-cuda-graph") from error
    return graph.replay
