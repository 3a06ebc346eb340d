"""A dataset's folder made by hand: dataset.json and index/*.npy, with no tar behind them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from res3d_video.pipeline.codecs.filmstrip import FilmstripCodec
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.schema import FORMAT_VERSION


@dataclass(frozen=True)
class Row:
    """One sample; `subsets` has a letter a split: t for train, e for test, v for validation, - for none."""

    label: int
    subsets: str
    group: str = ""
    source: str = ""
    num_frames: int = 20
    content: int = 0  # samples with the same number hold the same pictures


def make_shards(folder: Path, rows: list[Row], *, classes: list[str], name: str = "made") -> ShardIndex:
    """Write and open a dataset of these samples, keyed 00000000, 00000001, …"""
    index = folder / "index"
    index.mkdir(parents=True)
    counts = [row.num_frames for row in rows]
    contents = [1000 * (row.content or 10_000 + i) for i, row in enumerate(rows)]
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    within = np.arange(first[-1]) - np.repeat(first[:-1], counts)  # each frame's number in its sample
    crc32 = within + np.repeat(contents, counts)

    arrays = {
        "key": np.array([b"%08d" % i for i in range(len(rows))]),
        "source": np.array([row.source.encode() for row in rows]),
        "group": np.array([row.group.encode() for row in rows]),
        "label": np.array([row.label for row in rows], np.int32),
        "num_frames": np.array(counts, np.int32),
        "content": np.array([(0, 0, 171, 128)] * len(rows), np.int16),
        "split": np.array([["-tev".index(letter) for letter in row.subsets] for row in rows], np.int8),
        "tar": np.zeros(len(rows), np.int32),
        "offset": np.arange(len(rows), dtype=np.int64) * 2**20,
        "first_frame": first,
        "frames": np.stack([within * 512, np.full(first[-1], 500), crc32], axis=1).astype(np.uint32),
    }
    for file, array in arrays.items():
        np.save(index / f"{file}.npy", array)
    codec = {"name": "filmstrip", "size": 128, "frame_step": 1}
    splits = [str(i + 1) for i in range(len(rows[0].subsets))]
    info = {
        "format_version": FORMAT_VERSION, "name": name, "fingerprint": "0" * 16, "classes": classes,
        "codec": codec | FilmstripCodec.new(height=128, width=176, quality=85).describe(),
        "num_samples": len(rows), "num_frames": sum(counts), "class_counts": dict.fromkeys(classes, 0),
        "split_names": splits, "splits": {name: {"train": 0, "test": 0} for name in splits},
        "shards": [{"tar": "made-000000.tar", "num_bytes": 1500, "sha256": "0" * 64, "num_samples": len(rows)}],
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(info))
    return open_index(folder)
