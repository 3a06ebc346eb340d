"""An index of millions of samples, made up, and what opening it and planning with it cost; run as a process of its own.

python -m tests.pipeline.large_index make FOLDER [NUM_SAMPLES]
python -m tests.pipeline.large_index measure FOLDER [WINDOW [GROUPS]]
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
from res3d_video.pipeline.schema import FORMAT_VERSION, TEXT, array_specs

FRAMES, PER_TAR = 55, 384  # 2 s at 27 frames/s; 64 videos a tar
FRAME_BYTES = 5000
NUM_CLASSES, GLOBAL_BATCH_SIZE, WORLD_SIZE = 487, 512, 8
APART = 10  # steps from one that is tried to the next, but for the end of the epoch


def make(folder: Path, num_samples: int) -> None:
    """Write dataset.json and index/*.npy; arrays that no plan reads stay empty holes."""
    (folder / "index").mkdir(parents=True)
    random, rows = np.random.default_rng(0), np.arange(num_samples)
    num_labels = 1 + (random.random(num_samples) < 0.05)
    codec = {"name": "filmstrip", "size": 128, "frame_step": 1}
    info = {
        "format_version": FORMAT_VERSION,
        "name": "sports1m",
        "classes": [f"class {i}" for i in range(NUM_CLASSES)],
        "split_names": ["1"],
        "codec": codec | FilmstripCodec.new(height=128, width=176, quality=85).describe(),
        "num_samples": num_samples,
        "num_frames": num_samples * FRAMES,
        "class_counts": {f"class {i}": 0 for i in range(NUM_CLASSES)},
        "splits": {"1": {"train": 0, "test": 0}},
        "num_labels": int(num_labels.sum()),
        "fingerprint": "0" * 16,
        "shards": [
            {"tar": f"sports1m-{i:06d}.tar", "num_bytes": 1, "sha256": "0" * 64, "num_samples": count}
            for i, count in enumerate(np.bincount(rows // PER_TAR).tolist())
        ],
    }
    (folder / "dataset.json").write_text(json.dumps(info, indent=2))
    arrays = {
        name: np.lib.format.open_memmap(
            folder / f"index/{name}.npy", mode="w+", dtype="S16" if kind is TEXT else kind, shape=shape
        )
        for name, (kind, shape) in array_specs(info).items()
    }
    arrays["label"][:] = random.integers(0, NUM_CLASSES, num_samples)
    arrays["num_frames"][:] = FRAMES
    arrays["content"][:] = (0, 0, 171, 128)
    arrays["split"][:, 0] = 1 + (random.random(num_samples) < 0.2)
    arrays["tar"][:] = rows // PER_TAR
    arrays["offset"][:] = rows % PER_TAR * FRAMES * FRAME_BYTES
    arrays["first_frame"][:] = np.arange(num_samples + 1) * FRAMES
    arrays["first_label"][1:] = np.cumsum(num_labels)
    frame = np.stack([np.arange(FRAMES) * FRAME_BYTES, np.full(FRAMES, FRAME_BYTES - 2), np.zeros(FRAMES)], axis=1)
    frames = arrays["frames"].reshape(num_samples, FRAMES, 3)
    for some in chunks(num_samples):
        frames[some] = frame


def memory_mb() -> dict[str, float]:
    """Of this process: its own, and that of mapped files, which all processes of a machine share."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[key].split()[0]) / 1024 for name, key in (("own", "RssAnon"), ("shared", "RssFile"))}


def measure(folder: Path, window: int | None, groups: int) -> dict[str, Any]:
    """Seconds and megabytes of what a rank does before and while it trains for an epoch."""
    before, started = memory_mb(), time.process_time()
    index = open_index(folder)
    told: dict[str, Any] = {"open_cpu_s": time.process_time() - started, "open_mb": memory_mb()}
    samples, options = index.samples_of("1", "train"), {"global_batch_size": GLOBAL_BATCH_SIZE, "seed": 0}
    plan = TrainPlan(index, samples, ClipSpec(), shuffle_window=window, canonical_groups=groups, **options)
    started = time.process_time()
    plan.batch(0)
    told |= {"first_batch_cpu_s": time.process_time() - started, "plan_mb": memory_mb()}
    files, rows = FrameFiles(index), rank_rows(GLOBAL_BATCH_SIZE, rank=0, world_size=WORLD_SIZE)
    step_ms, lookup_ms, memory = [], [], []
    steps = plan.samples_per_epoch // GLOBAL_BATCH_SIZE
    for step in (*range(1, steps - 2, APART), *range(steps - 2, steps + 3)):  # over the end of the epoch
        started = time.thread_time()
        clips = plan.batch(step)[rows]
        planned = time.thread_time()
        drawn_labels(index, clips)
        frames = frame_indices(clips.start, plan.stored_spec, video_frames=index.num_frames[clips.sample])
        files.places(clips.sample, index.stored_as.locate(frames, blank=np.zeros(len(clips), bool)))
        step_ms.append(1000 * (planned - started))
        lookup_ms.append(1000 * (time.thread_time() - planned))
        if len(step_ms) % 10 == 0 or step > steps - 2:
            memory.append(memory_mb())
    own = [found["own"] for found in memory[:-4]]
    return told | {
        "step_cpu_ms": float(np.median(step_ms[:-2])),
        "lookup_cpu_ms": float(np.median(lookup_ms[:-2])),
        "own_mb_grew": max(own) - min(own),
        "resident_mb": max(sum(found.values()) for found in memory) - sum(before.values()),
    }


if __name__ == "__main__":
    action, folder, *rest = sys.argv[1:]
    if action == "make":
        make(Path(folder), int(rest[0]) if rest else 5_500_000)
    else:
        window, groups = (*map(int, rest), 0, 0)[:2]
        print(json.dumps(measure(Path(folder), window or None, groups)))
