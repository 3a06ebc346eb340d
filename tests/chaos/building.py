"""Shards built under fire, and compared with those that were not."""

import random
import time
from pathlib import Path

import psutil

from tests.chaos.ledger import PATIENCE_S, Ledger, StuckError, started


def build_words(raw: Path, out: Path) -> list[str]:
    options = "--size 32 --samples-per-shard 2 --workers 2 --test-fraction 0.25 --quiet"
    return ["tools/make_shards.py", "folder", "--raw", str(raw), "--out", str(out), *options.split()]


def build(raw: Path, out: Path, log: Path) -> float:
    """Build without disturbance; returns seconds."""
    begun_s = time.monotonic()
    with started(build_words(raw, out), log) as process:
        if process.wait(PATIENCE_S):
            raise StuckError(f"make_shards failed; see {log}")
    return time.monotonic() - begun_s


def build_under_fire(raw: Path, out: Path, log: Path, *, ledger: Ledger, drawn: random.Random, calm_s: float) -> None:
    """Build to the end, killed at any moment until the ledger is full."""
    while not ledger.is_full:
        with started(build_words(raw, out), log) as process:
            try:
                code = process.wait(drawn.uniform(0.1, 1.1) * calm_s)
            except psutil.TimeoutExpired:
                ledger.kill("build", process)
                continue
        if code:
            ledger.lose(f"{out.name}: make_shards ended with exit code {code}; see {log}")
        return
    build(raw, out, log)


def compare_folders(found: Path, expected: Path, *, ledger: Ledger) -> None:
    """Every file of the one is in the other, with the same bytes."""
    names = {p.relative_to(root) for root in (found, expected) for p in root.rglob("*") if p.is_file()}
    for name in sorted(names):
        ours, theirs = found / name, expected / name
        if not (ours.is_file() and theirs.is_file() and ours.read_bytes() == theirs.read_bytes()):
            ledger.lose(f"{ours}: not as {theirs}")
