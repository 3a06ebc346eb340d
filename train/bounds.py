"""Numbers of options: from and to, both named; never NaN or infinite."""

import math
from typing import Any

import click

from res3d_video.pipeline.clip import MAX_FRAME_STRIDE

MOST = 10**9  # of what is counted
SEED = click.IntRange(0, 2**63 - 1)
THREADS = click.IntRange(1, 1024)
CLIPS = click.IntRange(1, 10_000)  # of a video
BATCH = click.IntRange(1, 100_000)  # clips at a time
COUNT = click.IntRange(1, MOST)
WIDTH = click.IntRange(1, 1024)  # channels
STRIDE = click.IntRange(1, MAX_FRAME_STRIDE)
SIDE = click.IntRange(1, 4096)  # pixels


class Number(click.FloatRange):
    """A number from `least` to `most`, both included."""

    def __init__(self, least: float, most: float, *, min_open: bool = False, max_open: bool = False) -> None:
        super().__init__(least, most, min_open=min_open, max_open=max_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):  # is neither below nor above a bound
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number
