"""An index of millions of samples, made up, and what opening it and planning with it cost; run as a process of its own.

python -m tests.pipeline.large_index make FOLDER [NUM_SAMPLES]
python -m tests.pipeline.large_index measure FOLDER [WINDOW]
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from res3d_video.pipeline.clip import ClipSpec, frame_indices
from res3d_video.pipeline.codecs.filmstrip import FilmstripCodec
from res3d_video.pipeline.index import chunks, open_index
from res3d_video.pipeline.plan import TrainPlan, drawn_labels, rank_rows
from res3d_video.pipeline.reader import FrameFiles
from res3d_video.pipeline.schema import FORMAT_VERSION

FRAMES, PER_TAR = 55, 384  # 2 s at 27 frames/s; 64 videos a tar
FRAME_BYTES = 5000
NUM_CLASSES, GLOBAL_BATCH_SIZE, WORLD_SIZE = 487, 512, 8
APART = 10  # steps from one that is tried to the next, but for the end of the epoch


def make(folder: Path, num_samples: int) -> None:
    """Write dataset.json and index/*.npy; arrays that no plan reads stay empty holes."""
    index, count = folder / "index", num_samples
    index.mkdir(parents=True)
    random = np.random.default_rng(0)

    def array(name: str, kind: object, *shape: int) -> np.ndarray:
        return np.lib.format.open_memmap(index / f"{name}.npy", mode="w+", dtype=kind, shape=shape)

    for name, width in (("key", 11), ("source", 22), ("group", 11)):
        array(name, f"S{width}", count)
    array("label", np.int32, count)[:] = random.integers(0, NUM_CLASSES, count)
    array("num_frames", np.int32, count)[:] = FRAMES
    array("content", np.int16, count, 4)[:] = (0, 0, 171, 128)
    array("split", np.int8, count, 1)[:, 0] = 1 + (random.random(count) < 0.2)
    array("tar", np.int32, count)[:] = np.arange(count) // PER_TAR
    array("offset", np.int64, count)[:] = np.arange(count) % PER_TAR * FRAMES * FRAME_BYTES
    array("first_frame", np.int64, count + 1)[:] = np.arange(count + 1) * FRAMES
    rows = np.stack([np.arange(FRAMES) * FRAME_BYTES, np.full(FRAMES, FRAME_BYTES - 2), np.zeros(FRAMES)], axis=1)
    frames = array("frames", np.uint32, count * FRAMES, 3).reshape(count, FRAMES, 3)
    for some in chunks(count):
        frames[some] = rows
    labels = 1 + (random.random(count) < 0.05)
    array("first_label", np.int64, count + 1)[:] = np.concatenate([[0], np.cumsum(labels)])
    array("labels", np.int32, int(labels.sum()))
    tars = [
        {
            "tar": f"sports1m-{i:06d}.tar",
            "num_bytes": 1,
            "sha256": "0" * 64,
            "num_samples": min(PER_TAR, count - i * PER_TAR),
        }
        for i in range(-(-count // PER_TAR))
    ]
    codec = {"name": "filmstrip", "size": 128, "frame_step": 1}
    info = {
        "format_version": FORMAT_VERSION,
        "name": "sports1m",
        "classes": [f"class {i}" for i in range(NUM_CLASSES)],
        "split_names": ["1"],
        "codec": codec | FilmstripCodec.new(height=128, width=176, quality=85).describe(),
        "num_samples": count,
        "num_frames": count * FRAMES,
        "class_counts": {f"class {i}": 0 for i in range(NUM_CLASSES)},
        "splits": {"1": {"train": 0, "test": 0}},
        "num_labels": int(labels.sum()),
        "fingerprint": "0" * 16,
        "shards": tars,
    }
    (folder / "dataset.json").write_text(json.dumps(info, indent=2))


def memory_mb() -> dict[str, float]:
    """Of this process: its own, and that of mapped files, which all processes of a machine share."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[key].split()[0]) / 1024 for name, key in (("own", "RssAnon"), ("shared", "RssFile"))}


def measure(folder: Path, window: int | None) -> dict[str, object]:
    """Seconds and megabytes of what a rank does before and while it trains for an epoch."""
    told: dict[str, Any] = {"before_mb": memory_mb()}
    started, started_cpu = time.perf_counter(), time.process_time()
    index = open_index(folder)
    told["open_s"], told["open_cpu_s"] = time.perf_counter() - started, time.process_time() - started_cpu
    told["open_mb"] = memory_mb()
    started = time.perf_counter()
    plan = TrainPlan(
        index,
        index.samples_of("1", "train"),
        ClipSpec(),
        global_batch_size=GLOBAL_BATCH_SIZE,
        seed=0,
        shuffle_window=window,
    )
    told["plan_s"] = time.perf_counter() - started
    started, started_cpu = time.perf_counter(), time.process_time()
    plan.batch(0)
    told["first_batch_s"] = time.perf_counter() - started
    told["first_batch_cpu_s"] = time.process_time() - started_cpu
    told["plan_mb"] = memory_mb()
    files = FrameFiles(index)
    rows, took, busy, found, own = rank_rows(GLOBAL_BATCH_SIZE, rank=0, world_size=WORLD_SIZE), [], [], [], []
    resident: list[float] = []
    steps = plan.samples_per_epoch // GLOBAL_BATCH_SIZE
    for step in (*range(1, steps - 2, APART), *range(steps - 2, steps + 3)):  # over the end of the epoch
        started, started_cpu = time.perf_counter(), time.thread_time()
        clips = plan.batch(step)[rows]
        took.append(time.perf_counter() - started)
        busy.append(time.thread_time() - started_cpu)
        started_cpu = time.thread_time()
        drawn_labels(index, clips)
        frames = frame_indices(clips.start, plan.stored_spec, video_frames=index.num_frames[clips.sample])
        files.places(clips.sample, index.stored_as.locate(frames, blank=np.zeros(len(clips), bool)))
        if len(took) % 10 == 0 or step > steps - 2:
            resident.append(sum(memory_mb().values()))
        found.append(time.thread_time() - started_cpu)
        if len(took) % (steps // APART // 10) == 0:
            own.append(memory_mb()["own"])
    told |= {
        "samples": plan.samples_per_epoch,
        "step_ms": quantiles_ms(took[:-2]),
        "step_cpu_ms": quantiles_ms(busy[:-2]),
        "lookup_cpu_ms": quantiles_ms(found[:-2]),
        "next_epoch_s": max(took[-4:]),
        "own_mb_over_epoch": own,
        "resident_mb": max(resident) - sum(told["before_mb"].values()),
        "end_mb": memory_mb(),
    }
    return told


def quantiles_ms(seconds: list[float]) -> dict[str, float]:
    return {name: 1e3 * float(np.quantile(seconds, q)) for name, q in (("median", 0.5), ("95 %", 0.95), ("99 %", 0.99))}


if __name__ == "__main__":
    action, folder, *rest = sys.argv[1:]
    if action == "make":
        make(Path(folder), int(rest[0]) if rest else 5_500_000)
    else:
        print(json.dumps(measure(Path(folder), int(rest[0]) if rest else None)))
