"""How busy the threads of this process are: tells a full pool of decoders from a full Python thread. Linux only."""

import os
import re
import threading
from pathlib import Path

TASKS = Path("/proc/self/task")
DALI_WORKERS, DALI_OTHERS, UNNAMED = "DALI threads", "DALI's executors", "other threads"
SOFTWARE_DECODERS = "software decoders"  # PyAV's, on a CPU: a pool of Python's threads
LOADER_THREAD = "clip-loader"  # the thread of a ClipLoader; Python's name for it


def thread_seconds() -> dict[int, tuple[str, float]]:
    """CPU seconds of each thread since it began, by its id, with the group it belongs to; empty where unknown."""
    try:
        ids = [int(path.name) for path in TASKS.iterdir()]
    except OSError:
        return {}
    python = {thread.native_id: thread.name for thread in threading.enumerate()}
    ticks, found = os.sysconf("SC_CLK_TCK"), {}
    for number in ids:
        try:
            stat = (TASKS / str(number) / "stat").read_text()
        except OSError:  # it has ended
            continue
        name, fields = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 2 :].split()
        group = pool_of(python[number]) if number in python else thread_group(name)
        found[number] = (group, (int(fields[11]) + int(fields[12])) / ticks)  # utime, stime: proc(5) fields 14, 15
    return found


def pool_of(name: str) -> str:
    """The group of a Python thread: its name, unless it is one of a pool of decoders.

    >>> pool_of("clip-loader"), pool_of("decoder_1")
    ('clip-loader', 'software decoders')
    """
    return SOFTWARE_DECODERS if re.fullmatch(r"decoder_\d+", name) else name


def thread_group(name: str) -> str:
    """The group of a native thread, by the name that Linux has for it.

    >>> [thread_group(name) for name in ("[DALI][TP1]Exec", "[DALI] Executor", "python")]
    ['DALI threads', "DALI's executors", 'other threads']
    """
    if re.match(r"\[DALI\]\[TP\d*\]", name):
        return DALI_WORKERS
    return DALI_OTHERS if name.startswith("[DALI]") else UNNAMED


def seconds_by_group(before: dict[int, tuple[str, float]], after: dict[int, tuple[str, float]]) -> dict[str, float]:
    """CPU seconds of each group between two readings; a thread that ended meanwhile is not counted.

    >>> seconds_by_group({1: ("a", 2.0)}, {1: ("a", 2.5), 2: ("b", 0.25), 3: ("a", 1.0)})
    {'a': 1.5, 'b': 0.25}
    """
    found: dict[str, float] = {}
    for number, (group, seconds) in after.items():
        found[group] = found.get(group, 0.0) + seconds - before.get(number, (group, 0.0))[1]
    return found
