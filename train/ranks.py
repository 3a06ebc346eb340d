"""The processes of a run: torchrun's variables, the process group, and the collectives of the trainer."""

import contextlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store
from torch.distributed.rendezvous import rendezvous

from res3d_video.pipeline.errors import UserError, one_line
from res3d_video.train.stopping import StopRequest

# torchrun notices after 15 s that another machine is gone. If it restarts earlier, it waits for that machine and fails;
# so a process that has lost another one ends only after this time.
MACHINE_LOST_S = 20.0

# Process groups are kept for as long as the process lives. If DDP's reducer dropped the last reference to one, its
# destructor would hold the GIL and wait for gloo's thread, and that thread may wait for the GIL to free the tensors of
# the last collective: a deadlock (torch 2.13; pytorch/pytorch#56297).
_ENDED_GROUPS: list[dist.ProcessGroup | None] = []


@dataclass(frozen=True)
class Ranks:
    """This process's place among the processes of a run. With one process, collectives do nothing.

    Attributes:
        launcher: Process id of torchrun; None without torchrun.
        num_machines: Each with its own torchrun.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    launcher: int | None = None
    num_machines: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over ranks, on this rank's device; a collective."""
        values = values.to(self.device)
        if self.world_size > 1:
            dist.all_reduce(values)  # collective
        return values

    def rows(self, values: Tensor) -> Tensor:
        """The values [n] of every rank: [R, n], on this rank's device; a collective."""
        values = values.to(self.device)
        if self.world_size == 1:
            return values[None]
        rows = values.new_empty(self.world_size, len(values))
        dist.all_gather(list(rows), values)  # collective
        return rows

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; a collective, and on a GPU a sync."""
        return bool(self.sum(torch.tensor(int(flag))).item()) if self.world_size > 1 else flag

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order, on all ranks; a slow collective, for rare and small values."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)  # collective
        return values

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Copy rank 0's values to all ranks, in place; a collective."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)  # collective, one a tensor


def from_torchrun(device: str = "auto") -> Ranks:
    """This process's place by torchrun's variables; a single process without them. Starts nothing.

    Args:
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    place = torch.device("cpu")
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        place, num_gpus = torch.device("cuda", local_rank), torch.cuda.device_count()
        if not num_gpus:
            why = f"{torch.__version__} is built for CPUs only" if torch.version.cuda is None else "sees none"
            raise UserError(
                f"device: cuda needs an NVIDIA GPU, but torch {why}; use --device cpu, or install what is missing"
            )
        if local_rank >= num_gpus:
            raise UserError(
                f"device: local rank {local_rank} needs a GPU of its own but torch sees {num_gpus}; "
                "start fewer processes or use --device cpu"
            )
    return Ranks(
        rank=int(os.environ.get("RANK", "0")),
        local_rank=local_rank,
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        device=place,
        launcher=os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None,
        num_machines=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
    )


@contextlib.contextmanager
def process_group(ranks: Ranks, *, timeout_s: float = 1800.0, stop: StopRequest | None = None) -> Iterator[None]:
    """The process group, gloo on CPUs and NCCL on GPUs, for the block; nothing for a single process.

    Args:
        timeout_s: To wait for the others, at the beginning and in every collective. NCCL's watchdog ends this process
            with its own message.
        stop: When it is asked to stop, this process waits for the others at most TOLD_TO_STOP_S.

    Raises:
        UserError: Others did not arrive in time, or one has ended.
    """
    if ranks.device.type == "cuda":
        torch.cuda.set_device(ranks.device)
    if ranks.world_size == 1:
        yield
        return
    place: dict[str, Any] = {"rank": ranks.rank, "world_size": ranks.world_size}
    timeout = timedelta(seconds=timeout_s)
    try:
        store, *_ = next(rendezvous("env://", timeout=timeout, **place))
        token = meet(store, timeout_s=timeout_s, stop=stop, **place)
        place["store"] = dist.PrefixStore(token, store)
        if ranks.device.type == "cuda":
            dist.init_process_group("nccl", device_id=ranks.device, timeout=timeout, **place)  # collective
        else:
            dist.init_process_group("gloo", timeout=timeout, **place)  # collective
        _ENDED_GROUPS.append(dist.group.WORLD)
        yield  # after an error the group is not destroyed: others may wait in a collective, and torchrun ends them
        dist.destroy_process_group()
    except (RuntimeError, TimeoutError) as error:
        if not isinstance(error, dist.DistError | TimeoutError) and "gloo" not in str(error):
            raise
        if ranks.num_machines > 1:
            time.sleep(MACHINE_LOST_S)
        raise UserError(
            f"another process has ended, or did not come within {timeout_s:g} s ({one_line(error)}); see its last "
            "lines, and docs/multi-node.md"
        ) from error


POLL_S = 0.05
TOLD_TO_STOP_S = 20.0
OFFER = "meeting"


def meet(store: Store, *, rank: int, world_size: int, timeout_s: float, stop: StopRequest | None = None) -> str:
    """Wait for all processes that were started with this one; all of them return the same token.

    torchrun keeps one store for all its restarts (torch 2.13; pytorch/pytorch#135712), so a restarted process may read
    the address of a dead one there, and then each restart fails as the one before. Here rank 0 offers a token nobody
    has used, the others accept it, and rank 0 confirms whom it has heard; what belongs to another token is of the past.
    Not needed once torchrun has a store for each restart.

    Raises:
        TimeoutError: They did not all come.
        torch.distributed.DistStoreError: The store is gone.
    """
    own, until_s = uuid.uuid4().hex, time.monotonic() + timeout_s
    if rank == 0:
        store.set(OFFER, own)
    accepted = [f"{OFFER}/{own}/{other}" for other in range(1, world_size)]  # of rank 0
    token, confirmed = "", ""  # of the others
    while time.monotonic() < until_s:
        if stop is not None and stop.is_told():
            until_s = min(until_s, time.monotonic() + TOLD_TO_STOP_S)
        if rank == 0 and store.check(accepted):
            store.set(f"{OFFER}/{own}/all", ",".join(store.get(key).decode() for key in accepted))
            return own
        if rank != 0 and store.check([OFFER]):
            offered = store.get(OFFER).decode()
            if offered != token:
                token, confirmed = offered, f"{OFFER}/{offered}/all"
                store.set(f"{OFFER}/{token}/{rank}", own)
            if store.check([confirmed]) and own in store.get(confirmed).decode().split(","):
                return token
        time.sleep(POLL_S)
    raise TimeoutError(f"rank {rank} timed out waiting for the others")
