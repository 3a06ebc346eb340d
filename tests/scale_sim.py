"""What 64 ranks on 8 nodes read of a dataset of Sports-1M's size in an epoch, by the real plan; no byte is read.

python -m tests.scale_sim
"""

import resource
import time
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import numpy as np

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.plan import TrainPlan, rank_rows

NUM_TARS, SAMPLES_PER_TAR, VIDEOS_PER_TAR = 17_700, 5_500_000 / 17_700, 64
SAMPLE_BYTES = 55 * 5_300  # 2 s of filmstrip
RANKS, NODES, BATCH = 64, 8, 512
AHEAD = 64  # steps, the default of --fetch-ahead


def made_index(num_tars: int) -> SimpleNamespace:
    """What a plan asks of an index; each video of a tar has a geometrically distributed number of samples."""
    rng = np.random.default_rng(0)
    counts = VIDEOS_PER_TAR + rng.negative_binomial(VIDEOS_PER_TAR, VIDEOS_PER_TAR / SAMPLES_PER_TAR, num_tars)
    tar = np.repeat(np.arange(num_tars, dtype=np.int32), counts)
    return SimpleNamespace(
        name="made", fingerprint="0", frame_step=1, size=128, counts=counts,
        num_frames=np.broadcast_to(np.int32(55), tar.shape),
        content=np.broadcast_to(np.array([0, 0, 171, 128], np.int16), (len(tar), 4)),
        tar_of=lambda samples: tar[samples].astype(np.int64),
    )  # fmt: skip


def simulate(index: SimpleNamespace, *, groups: int, window: int | None) -> dict[str, Any]:
    """An epoch of one order, all steps of it.

    Returns:
        step_ms, order_s: CPU time of a step of the plan, median, and of the first one, with the order of an epoch.
        fetched: Bytes that a node fetches at most if its cache keeps all, as a part of the dataset.
        open: Tars at most that a node has read from and will again: what its cache needs.
        fetched_in: The same bytes in a cache of so many tars, and of twice as many; the least recently used give way.
        begun: Tars that a node begins in `AHEAD` steps, at most, to the average.
        apart, apart_rank: Tars that the clips of a global batch and of a rank's part of it come from, mean.
    """
    num_samples = int(index.counts.sum())
    order: dict[str, Any] = {"canonical_groups": groups, "shuffle_window": window}
    plan = TrainPlan(index, np.arange(num_samples), ClipSpec(), global_batch_size=BATCH, seed=0, **order)
    rows = [rank_rows(BATCH, rank=rank, world_size=RANKS, canonical_groups=groups) for rank in range(RANKS)]
    steps = num_samples // BATCH
    tars, times = np.empty((steps, RANKS, BATCH // RANKS), np.int32), np.empty(steps)
    for step in range(steps):
        started = time.thread_time()
        samples = plan.batch(step).sample
        times[step] = time.thread_time() - started
        for rank, own in enumerate(rows):
            tars[step, rank] = index.tar_of(samples[own])
    shares = [index.counts[np.unique(part)].sum() / num_samples for part in np.split(tars, NODES, axis=1)]
    node = tars[:, : RANKS // NODES].reshape(steps, -1)
    first, last = spans(node)
    begun = np.bincount(first, minlength=steps)
    opened = int(np.cumsum(begun - np.bincount(last + 1, minlength=steps + 1)[:steps]).max())
    batches = tars[::50]
    return {
        "step_ms": 1000 * float(np.median(times)),
        "order_s": float(times[0]),
        "fetched": max(shares),
        "open": opened,
        "fetched_in": [fetched_in(node, index.counts, size) / num_samples for size in (opened, 2 * opened)],
        "begun": float(np.convolve(begun, np.ones(AHEAD), "valid").max() / (AHEAD * begun.mean())),
        "apart": float(np.mean([len(np.unique(batch)) for batch in batches])),
        "apart_rank": float(np.mean([len(np.unique(part)) for batch in batches for part in batch])),
    }


def spans(tars: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last step of each tar of tars [steps, N]."""
    step = np.repeat(np.arange(len(tars)), tars.shape[1])
    _, first = np.unique(tars.ravel(), return_index=True)
    _, last = np.unique(tars.ravel()[::-1], return_index=True)
    return step[first], step[::-1][last]


def fetched_in(tars: np.ndarray, sizes: np.ndarray, capacity: int) -> int:
    """What a cache of so many tars fetches in all for tars [steps, N], the least recently used giving way."""
    cache, fetched = OrderedDict[int, None](), 0
    for tar in tars.ravel().tolist():
        if tar in cache:
            cache.move_to_end(tar)
            continue
        fetched += int(sizes[tar])
        cache[tar] = None
        if len(cache) > capacity:
            cache.popitem(last=False)
    return fetched


def main() -> None:
    """Print a table, a row an order."""
    index = made_index(NUM_TARS)
    total, tar_gb = int(index.counts.sum()) * SAMPLE_BYTES / 1e9, index.counts.mean() * SAMPLE_BYTES / 1e9
    print(f"{index.counts.sum():,} samples, {NUM_TARS:,} tars of {1000 * tar_gb:.0f} MB, {total:,.0f} GB\n")
    columns = ["groups", "window", "GB fetched", "to 1/8", "open tars", "GB", "GB fetched in that", "in twice that"]
    columns += ["begun", "tars of a batch", "of a rank's", "step, ms", "order, s"]
    print(f"| {' | '.join(columns)} |\n|{'---:|' * len(columns)}")
    for groups, window in ((0, None), (0, 64), (512, None), (512, 1), (512, 4), (64, 4), (64, 16)):
        found = simulate(index, groups=groups, window=window)
        cells = [groups, window or "all", f"{total * found['fetched']:,.0f}", f"{NODES * found['fetched']:.3f}"]
        cells += [f"{found['open']:,}", f"{found['open'] * tar_gb:,.0f}"]
        cells += [f"{total * share:,.0f}" for share in found["fetched_in"]]
        cells += [f"{found['begun']:.1f}", f"{found['apart']:.0f}", f"{found['apart_rank']:.1f}"]
        cells += [f"{found['step_ms']:.2f}", f"{found['order_s']:.2f}"]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    print(f"\nmost memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
