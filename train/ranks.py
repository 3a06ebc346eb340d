"""Processes of one run: torchrun's variables, the process group and the few collectives the trainer needs."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among the run's processes. With one process no collective does anything."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to people."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over ranks, on this rank's device; a collective."""
        values = values.to(self.device)
        if self.world_size > 1:
            dist.all_reduce(values)  # collective
        return values

    def any(self, flag: bool) -> bool:
        """Whether any rank says so; a collective, and on a GPU a sync."""
        return bool(self.sum(torch.tensor(int(flag))).item()) if self.world_size > 1 else flag

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order, on all ranks; a slow collective for rare, small things."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)  # collective
        return values

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give all ranks rank 0's values, in place; a collective."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)  # collective, one a tensor

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Give every parameter the mean of all ranks' gradients, in place; a collective.

        What DDP does, but after the backward pass and not during it: a CUDA graph cannot hold DDP's hooks. Every
        rank must have gradients of the same parameters.
        """
        if self.world_size == 1:
            return
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])  # copy
        dist.all_reduce(flat)  # collective, 4 bytes a parameter
        flat /= self.world_size
        for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(mean.view_as(grad))


def from_torchrun(device: str = "auto") -> Ranks:
    """This process's place by torchrun's variables; one process alone when they are absent. Starts nothing.

    Args:
        device: "cpu", "cuda", or "auto" for a GPU where there is one.

    Raises:
        ValueError: `device` is "cuda" and torch sees no GPU for this rank.
    """
    rank = int(os.environ.get("RANK", "0"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return Ranks(rank, local_rank, world_size, torch.device("cpu"))
    num_gpus = torch.cuda.device_count()
    if local_rank >= num_gpus:
        raise ValueError(
            f"device: local rank {local_rank} needs a GPU of its own but torch sees {num_gpus}; "
            "start fewer processes or use --device cpu"
        )
    return Ranks(rank, local_rank, world_size, torch.device("cuda", local_rank))


@contextlib.contextmanager
def process_group(ranks: Ranks) -> Iterator[None]:
    """The process group, gloo on CPU and NCCL on GPUs, while the block runs; nothing for one process."""
    if ranks.device.type == "cuda":
        torch.cuda.set_device(ranks.device)
    if ranks.world_size == 1:
        yield
        return
    if ranks.device.type == "cuda":
        dist.init_process_group("nccl", device_id=ranks.device)  # collective
    else:
        dist.init_process_group("gloo")  # collective
    yield  # after an error nothing is torn down: others may wait in a collective, torchrun ends them
    dist.destroy_process_group()
