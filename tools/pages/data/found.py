"""Everything that a dataset's page is made of, but for the pictures."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.pages.data.facts import (
    Balance,
    balance,
    hashes,
    lacking,
    length_counts,
    side_counts,
    sizes,
)
from res3d_video.tools.pages.data.key_json import LookedAt, look_at
from res3d_video.tools.pages.data.leaks import Leak, leaks
from res3d_video.tools.pages.data.reasons import Quarantine, read_manifest, read_quarantine

REMOTE_TARS = 4  # fetched of a dataset behind a URL, to look into


@dataclass(frozen=True)
class Wanted:
    """What a page of a dataset is asked to show.

    Attributes:
        clip: Clips that the plans take; the crop does not matter.
        split: Whose sides are shown; None takes 1, else the first.
        num_views: Clips of a test sample in an evaluation.
        seed: Of the training plan, and of what is drawn.
        num_classes, per_class: In the gallery, at most.
        max_mb: The page's size.
    """

    clip: ClipSpec
    split: str | None = None
    num_views: int = 10
    seed: int = 0
    num_classes: int = 12
    per_class: int = 2
    max_mb: float = 12.0


@dataclass(frozen=True)
class Found:
    """Everything that the sections are made of.

    Attributes:
        counts: int64 [K, 3], samples of every class on every side of `split`.
        lengths, length_counts: Different lengths in stored frames, and how many samples have each.
        sizes: Stored width and height -> samples; and samples of further sizes.
        num_sources: Different source videos; 0 where the index names none.
        manifest: State of a listed video -> side -> videos; None where there is no manifest.jsonl.
    """

    split: str
    counts: np.ndarray
    balance: Balance | None
    lacking: dict[str, list[str]]
    lengths: np.ndarray
    length_counts: np.ndarray
    sizes: tuple[dict[tuple[int, int], int], int]
    num_sources: int
    looked_at: LookedAt
    leaks: list[Leak]
    quarantine: Quarantine | None
    manifest: dict[str, Counter[str]] | None

    @property
    def hours(self) -> float | None:
        """Of all samples; from those that were looked at where these are not all. None where no rate is known."""
        known = ~np.isnan(self.looked_at.duration_s)
        if not known.any():
            return None
        return float(np.array(self.looked_at.duration_s)[known].mean() * self.length_counts.sum() / 3600)


def gather(index: ShardIndex, within: np.ndarray, *, split: int, seed: int) -> Found:
    """All numbers of a dataset but those of the gallery."""
    counts = side_counts(index, split)
    lengths, how_many = length_counts(index)
    looked_at = look_at(index, within, seed=seed)
    names = hashes(index.sources)
    return Found(
        split=index.split_names[split],
        counts=counts,
        balance=balance(counts.sum(axis=1)),
        lacking=lacking(counts, index.classes),
        lengths=lengths,
        length_counts=how_many,
        sizes=sizes(index),
        num_sources=len(np.unique(names[names != hashes(np.array([b""]))[0]])),
        looked_at=looked_at,
        leaks=leaks(index),
        quarantine=read_quarantine(index.data_dir / "quarantine.jsonl"),
        manifest=read_manifest(index.data_dir / "manifest.jsonl"),
    )


def rows_within_reach(index: ShardIndex, *, seed: int) -> np.ndarray:
    """Samples that may be looked into: all of a folder, those of a few random tars behind a URL."""
    if index.store is None or len(index.tars) <= REMOTE_TARS:
        return np.arange(index.num_samples)
    tars = index.tar_of(np.arange(index.num_samples))
    chosen = np.random.default_rng(seed).choice(np.unique(tars), size=REMOTE_TARS, replace=False)
    return np.flatnonzero(np.isin(tars, chosen))
