"""The tars of a build made by workers of a Ray cluster; all machines see videos and shards under the same names."""

import logging
import socket
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from res3d_video import pipeline
from res3d_video.pipeline.build.plan import ShardTask
from res3d_video.pipeline.build.shard import MAX_ATTEMPTS, PASSING, OtherInputsError, Tell, is_full, make_shard
from res3d_video.pipeline.errors import one_line
from res3d_video.pipeline.index import ShardError

CONNECT_S = 10.0
IN_HAND = 1000  # tars that Ray has at once, to give to whatever machines there are


def make_on_ray(tasks: list[ShardTask], out_dir: Path, tell: Tell, *, address: str, cores: int = 1) -> dict[str, str]:
    """A `Make` on a Ray cluster.

    Args:
        address: Of the cluster: "auto" (one that runs on this machine), "host:port", or "local" for one just for this.
        cores: That one tar takes; each converts a video at a time.

    Raises:
        ShardError: There is no Ray, or no such cluster; or a machine sees other videos.
        OSError: The disk is full.
    """
    waiting, given, failed = deque(tasks), dict[Any, ShardTask](), dict[str, str]()
    attempts: Counter[str] = Counter()
    with connected(address) as ray:
        # Ray's own retries are off: it has two counts, one of them endless, and does not know a full disk.
        remote = ray.remote(num_cpus=cores, max_retries=0, scheduling_strategy="SPREAD")(make_shard)
        while waiting or given:
            while waiting and len(given) < IN_HAND:
                task = waiting.popleft()
                given[remote.remote(absolute(task), out_dir.absolute(), workers=cores)] = task
            (done,), _ = ray.wait(list(given), num_returns=1)
            task = given.pop(done)
            attempts[task.name] += 1
            try:
                tell(task.name, ray.get(done))
            except ray.exceptions.RayError as error:
                reason = failure(error)
                if attempts[task.name] < MAX_ATTEMPTS:
                    waiting.append(task)
                else:
                    failed[task.name] = reason
    return failed


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
            f"ray: no cluster at {address!r} ({one_line(error)}); start one with `ray start --head`"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()  # which ends what is still in work


def environment() -> dict[str, Any]:
    """What workers need to import this very code, from the checkout where the driver has it."""
    checkout = Path(pipeline.__file__).parents[1]
    return {
        "env_vars": {"PYTHONPATH": f"{checkout}:${{PYTHONPATH}}"},
        "worker_process_setup_hook": "pipeline.make_checkout_known",
    }


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
    if cause is None:
        return f"its worker died ({type(error).__name__})"
    if is_full(cause) or isinstance(cause, OtherInputsError):
        raise cause
    if not isinstance(cause, PASSING):
        raise error
    return one_line(cause)
