"""Parquet files as other programs write them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest


def write_parquet(path: Path, **columns: Any) -> None:
    """Columns by name; a row of an array [R, D] is a list."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    lists = {name: list(values) if np.ndim(values) > 1 else values for name, values in columns.items()}
    pq.write_table(pa.table(lists), path)
