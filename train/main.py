#!/usr/bin/env python3
"""The command that trains; the training itself is trainer.py."""

import os
import sys
from pathlib import Path
from typing import Any

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

from res3d_video.train.stopping import StopRequest, is_command

# Before anything slow is loaded, so that no signal is lost.
STOP = StopRequest(of_command=True) if is_command(__name__) else None

# Threads that wait must sleep: spinning ones take the cores from decoding, and on two busy cores training falls to a
# tenth of its speed (docs/decisions/0004-threads-that-wait-sleep.md). Read by OpenMP when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # hardware queues: the step and the loader have 11 streams
if os.environ.get("LOCAL_WORLD_SIZE", "1") != "1":
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")  # of each process; all cores of each would be too many

import click

from res3d_video.train.options import COMMAND, train_options
from res3d_video.train.terminal import INTERRUPTED


@click.command(**COMMAND, stop=STOP)
@train_options
def main(**options: Any) -> None:
    """Train a 3D convnet on shards. Options left out keep the preset's value."""
    from res3d_video.train.trainer import (
        train,  # loads torch, which takes seconds: help and wrong options do not wait for it
    )

    stop = STOP or StopRequest()
    try:
        train(stop=stop, **options)
    finally:
        if stop is not STOP:
            stop.close()
    if stop.interrupted:
        click.get_current_context().exit(INTERRUPTED)


if __name__ == "__main__":
    main()
