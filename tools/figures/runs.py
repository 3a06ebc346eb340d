"""Names that tools/run_reader.py has."""

from res3d_video.tools.run_reader import (
    BOOKKEEPING,
    Curve,
    curve_of,
    distinct_names,
    rate_drops,
    running_mean,
    short_name,
)

__all__ = ["BOOKKEEPING", "Curve", "curve_of", "distinct_names", "rate_drops", "running_mean", "short_name"]
