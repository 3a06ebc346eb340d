"""The tars of a build made by workers of a Ray cluster; all machines see videos and shards under the same names."""

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pipeline
from pipeline.build.giving_out import GivingOut, Patience
from pipeline.build.plan import ShardTask
from pipeline.build.progress import Tell
from pipeline.build.shard import MAX_ATTEMPTS, PASSING, OtherInputsError, is_full, make_shard, reason_of
from pipeline.index import ShardError

LOOK_EVERY_S = 1.0
CONNECT_S = 10.0
END_S = 20.0  # for a worker whose result nobody needs any more


class MakeOnRay:
    """A `Make` on a Ray cluster.

    Args:
        address: Of the cluster: "auto" (one that runs on this machine), "host:port", or "local" for one just for this.
        cores: That one tar takes; each converts a video at a time.
    """

    def __init__(self, address: str, *, cores: int = 1, patience: Patience | None = None) -> None:
        self._address, self._cores, self._patience = address, cores, patience

    def __call__(self, tasks: list[ShardTask], out_dir: Path, tell: Tell) -> dict[str, str]:
        """Make the tars.

        Raises:
            ShardError: There is no Ray, or no such cluster; or a machine sees other videos.
            OSError: The disk is full.
        """
        by_name = {task.name: task for task in tasks}
        work = GivingOut(list(by_name), max_attempts=MAX_ATTEMPTS, patience=self._patience)
        with connected(self._address) as ray:
            # Only this process tries again: it counts, and knows what is finished.
            remote = ray.remote(num_cpus=self._cores, max_retries=0, scheduling_strategy="SPREAD")(make_shard)
            given: dict[Any, str] = {}
            try:
                while not work.is_over:
                    free = int(ray.cluster_resources().get("CPU", 0)) // self._cores - len(given)
                    for _ in range(free):
                        name = work.give(now_s=time.monotonic())
                        if name is None:
                            break
                        task = absolute(by_name[name])
                        given[remote.remote(task, out_dir.absolute(), workers=self._cores)] = name
                    if not given:
                        time.sleep(LOOK_EVERY_S)  # no machine at all, until one joins
                        continue
                    for done in ray.wait(list(given), num_returns=1, timeout=LOOK_EVERY_S)[0]:
                        name = given.pop(done)
                        try:
                            counts = ray.get(done)
                        except ray.exceptions.RayError as error:
                            work.fail(name, failure(error))
                            continue
                        if work.finish(name, now_s=time.monotonic()):
                            tell(counts, True)
                            for late in [ref for ref, other in given.items() if other == name]:
                                ray.cancel(late)
            finally:
                end(ray, list(given))
        return work.failed


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module ray, connected to a cluster.

    Raises:
        ShardError: It is not installed, or there is no such cluster.
    """
    try:
        import ray
    except ImportError:
        raise ShardError('ray is not installed; pip install "res3d-video[ray]" on all machines') from None
    try:
        host, _, port = address.rpartition(":")
        if host and port.isdigit():  # Ray itself tries for minutes, and then ends the process
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment())
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        raise ShardError(
            f"ray: no cluster at {address!r} ({reason_of(error)}); start one with `ray start --head`"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def environment() -> dict[str, Any]:
    """What workers need to import this very code, from the checkout where the driver has it."""
    checkout = Path(pipeline.__file__).parents[1]
    return {"env_vars": {"PYTHONPATH": f"{checkout}:${{PYTHONPATH}}"}}


def absolute(task: ShardTask) -> ShardTask:
    """The task for a process that works in another folder."""
    return replace(task, records=tuple(replace(r, path=r.path.absolute()) for r in task.records))


def failure(error: Any) -> str:
    """Why a worker failed, in one line.

    Raises:
        OSError: The disk is full, so that no other worker can do better.
        OtherInputsError: A machine is not like the others, and would soon have tried and failed everything.
        RayError: A bug ended the work; with the worker's traceback.
    """
    cause = getattr(error, "cause", None)
    if cause is None or type(cause).__module__.startswith("ray."):  # such as cancelled while it worked
        return f"its worker died ({type(error).__name__})"
    if is_full(cause) or isinstance(cause, OtherInputsError):
        raise cause
    if not isinstance(cause, PASSING):
        raise error
    return reason_of(cause)


def end(ray: Any, refs: list[Any]) -> None:
    """End work that nobody needs any more, and wait until it has ended: the index is written next."""
    for force in (False, True):
        for ref in refs:
            ray.cancel(ref, force=force)
        if refs:
            refs = ray.wait(refs, num_returns=len(refs), timeout=END_S)[1]
