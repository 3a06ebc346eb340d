#!/usr/bin/env python3
"""Does the GPU ever wait for video? Loader alone, synthetic step and real step take turns; a table and one sentence."""

import os
import sys
from pathlib import Path
from typing import Any

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

# Threads that wait must sleep: spinning ones take the cores from decoding, and on two busy cores training falls to a
# tenth of its speed (docs/decisions/0004-threads-that-wait-sleep.md). Read by OpenMP when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # as the trainer (train/main.py)

import click

from res3d_video.tools.bench.options import COMMAND, all_options


@click.command(**COMMAND)
@all_options
def main(**options: Any) -> None:
    """Measure the loader alone, the training step on ready clips and on real ones, and name the bottleneck."""
    from res3d_video.tools.bench.command import (
        bench,  # loads torch, which takes seconds: help and wrong options do not wait for it
    )

    bench(**options)


if __name__ == "__main__":
    main()
