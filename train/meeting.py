"""How the processes of a run make sure that they were started together, before they exchange addresses.

torchrun keeps one store for all its restarts (torch 2.13; pytorch/pytorch#135712), so a restarted process may read the
address of a dead one there, and then each restart fails as the one before. Here rank 0 offers a token nobody has used,
the others accept it, and rank 0 confirms whom it has heard; what belongs to another token is of the past. Without need
when torchrun has a store for each restart.
"""

import time
import uuid

from torch.distributed import Store

from train.stopping import StopRequest, end_before_start

POLL_S = 0.05
OFFER = "meeting"


def meet(
    store: Store,
    *,
    rank: int,
    world_size: int,
    timeout_s: float,
    stop: StopRequest | None = None,
    start: str = "0",
) -> str:
    """Wait for all processes that were started with this one; all of them return the same token.

    Args:
        stop: Where one process is told to stop, all end.
        start: Tells this start from a restart, which what was told before is none of.

    Raises:
        TimeoutError: They did not all come.
        torch.distributed.DistStoreError: The store is gone.
    """
    own, until_s = uuid.uuid4().hex, time.monotonic() + timeout_s
    if rank == 0:
        store.set(OFFER, own)
    accepted = [f"{OFFER}/{own}/{other}" for other in range(1, world_size)]  # of rank 0
    token, confirmed = "", ""  # of the others
    asked, ended = (
        f"{OFFER}/asked/{start}",
        f"{OFFER}/ended/{start}",
    )  # to stop; rank 0 decides, so nobody goes on alone
    while time.monotonic() < until_s:
        if stop is not None:
            if stop.is_told():
                store.set(asked, "")
            if rank == 0 and store.check([asked]):
                store.set(ended, "")
            if store.check([ended]):
                end_before_start("stopped by a signal", 0)
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
