"""Segments drawn from a dataset that play on a page, class by class, with the frames that the plans take of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import SUBSETS, ShardError, ShardIndex
from res3d_video.pipeline.reader import FrameFiles
from res3d_video.tools.pages.clips import Strips, strips_of
from res3d_video.tools.pages.data.key_json import open_tar, read_meta
from res3d_video.tools.pages.data.windows import Window, windows_of
from res3d_video.tools.pages.page import Markup, render
from res3d_video.tools.pages.player import player, timeline

BASE64 = 4 / 3  # bytes of a page to one of a picture
BYTES_BESIDE = 12_000  # of a player on a page, besides its pictures
LEAST_BYTES = 8_000  # of a segment's pictures; with less, fewer segments are shown
FALLBACK_FPS = 25.0  # to play at, where key.json does not say
SIDE_NAMES = {SUBSETS["train"]: "train", SUBSETS["test"]: "test", 0: "not used"}


@dataclass(frozen=True)
class Shown:
    """One segment of the gallery.

    Attributes:
        windows: What the plans take of it.
        strips: None where its pictures cannot be read; `fault` says why.
    """

    row: int
    key: str
    label: int
    source: str
    group: str
    side: str
    num_frames: int
    fps: float
    warnings: list[str]
    windows: list[Window]
    strips: Strips | None
    fault: str = ""


@dataclass
class Gallery:
    """All segments shown, and what was left out.

    Attributes:
        classes: Those with a segment, by label.
        num_with_samples: Classes that have samples at all.
        num_asked: Segments that were to be shown; fewer where the page would become too large.
    """

    classes: dict[int, list[Shown]] = field(default_factory=dict)
    num_with_samples: int = 0
    num_asked: int = 0

    @property
    def shown(self) -> list[Shown]:
        """All segments, class by class."""
        return [one for own in self.classes.values() for one in own]


def draw(
    labels: np.ndarray, sides: np.ndarray, rows: np.ndarray, *, num_classes: int, per_class: int, seed: int
) -> dict[int, list[int]]:
    """Rows to show of some random classes; of each in turn one to train on and one to test with, while there are any.

    Args:
        labels, sides: Of every sample.
        rows: Samples to draw from.

    Returns:
        Label -> rows, both in ascending order of labels.
    """
    random = np.random.default_rng(seed)
    own_labels = labels[rows]
    present = np.unique(own_labels)
    chosen = np.sort(random.choice(present, size=min(num_classes, len(present)), replace=False))
    drawn: dict[int, list[int]] = {}
    for label in chosen.tolist():
        own = rows[own_labels == label]
        by_side = [random.permutation(own[sides[own] == side]) for side in (*SUBSETS.values(), 0)]
        rounds = max(len(one) for one in by_side[:2])
        turns = [one[turn] for turn in range(min(rounds, per_class)) for one in by_side[:2] if turn < len(one)]
        drawn[label] = [int(row) for row in [*turns, *by_side[2]][:per_class]]
    return drawn


def gather(
    index: ShardIndex,
    spec: ClipSpec,
    *,
    rows: np.ndarray,
    split: int,
    seed: int,
    num_views: int,
    num_classes: int,
    per_class: int,
    max_bytes: int,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Gallery:
    """Draw segments, ask the plans what they take, and read the pictures.

    Args:
        rows: Samples to draw from.
        max_bytes: What the gallery may take of the page.
        report: Called with (segments read, segments).

    Raises:
        ValueError: The clips ask for frames that the shards do not have.
        ShardError: The server of a remote dataset is gone.
    """
    drawn = draw(index.labels, index.subsets[:, split], rows, num_classes=num_classes, per_class=per_class, seed=seed)
    gallery = Gallery(num_with_samples=len(np.unique(index.labels)), num_asked=sum(map(len, drawn.values())))
    drawn = fitting(drawn, max(int(max_bytes / (LEAST_BYTES * BASE64 + BYTES_BESIDE)), 1))
    together = np.array([row for own in drawn.values() for row in own], np.int64)
    windows = windows_of(index, together, spec, split=split, seed=seed, num_views=num_views) if len(together) else {}
    files, left, done = FrameFiles(index), float(max_bytes), 0
    for label, own in drawn.items():
        for row in own:
            share = left / (len(together) - done)
            one = read(index, row, windows[row], files=files, split=split, max_bytes=bytes_for(share))
            gallery.classes.setdefault(label, []).append(one)
            left -= BYTES_BESIDE + BASE64 * (one.strips.num_bytes if one.strips else 0)
            done += 1
            report(done, len(together))
    return gallery


def fitting(drawn: dict[int, list[int]], most: int) -> dict[int, list[int]]:
    """At most so many rows: first fewer of a class, then fewer classes.

    >>> fitting({1: [10, 11, 12], 2: [20, 21]}, 4), fitting({1: [10, 11], 2: [20, 21]}, 1)
    ({1: [10, 11], 2: [20, 21]}, {1: [10]})
    """
    per_class = max((len(own) for own in drawn.values()), default=0)
    while per_class > 1 and sum(min(len(own), per_class) for own in drawn.values()) > most:
        per_class -= 1
    kept = {label: own[:per_class] for label, own in drawn.items()}
    return dict(list(kept.items())[:most]) if sum(map(len, kept.values())) > most else kept


def bytes_for(share: float) -> int:
    """Bytes of pictures for a share of the page."""
    return max(int((share - BYTES_BESIDE) / BASE64), LEAST_BYTES)


def read(index: ShardIndex, row: int, windows: list[Window], *, files: FrameFiles, split: int, max_bytes: int) -> Shown:
    """One segment with its pictures, or why they cannot be read."""
    try:
        file = open_tar(index, int(index.tar_of(np.array([row]))[0]))
        meta = read_meta(index, row, file) if file is not None else None
    except OSError:
        meta = None
    strips, fault = None, ""
    try:
        strips = strips_of(index, row, files=files, max_bytes=max_bytes)
    except ShardError as error:
        fault = str(error)
    return Shown(
        row=row,
        key=index.key(row),
        label=int(index.labels[row]),
        source=index.source(row),
        group=index.groups[row].decode(errors="backslashreplace"),
        side=SIDE_NAMES[int(index.subsets[row, split])],
        num_frames=int(index.num_frames[row]),
        fps=(meta["fps"] if meta else 0) / index.frame_step or math.nan,
        warnings=meta.get("warnings", []) if meta else [],
        windows=windows,
        strips=strips,
        fault=fault,
    )


def html(gallery: Gallery, classes: list[str]) -> Markup:
    """The gallery, with a box to filter classes by name where there are many."""
    groups = [(classes[label], [figure(one, classes[label]) for one in own]) for label, own in gallery.classes.items()]
    return render("gallery.html", groups=groups)


def figure(one: Shown, class_name: str) -> Markup:
    """A segment that plays; or a word on why it does not."""
    if one.strips is None:
        return render("unreadable.html", one=one)
    fps = one.fps if one.fps == one.fps else FALLBACK_FPS  # NaN is not itself
    shown = one.strips.shown.tolist()
    step = shown[1] - shown[0] if len(shown) > 1 else 1
    return player(
        one.strips.sprites,
        one.strips.frames,
        size=one.strips.size,
        name=f"segment {one.key}",
        text=f"A segment of {class_name}, {one.num_frames} frames of {one.source}.",
        caption=render("segment.html", one=one, step=step, seconds=one.num_frames / fps),
        frame_names=[f"frame {frame}, {frame / fps:.2f} s" for frame in shown],
        fps=fps / step,
        below=timeline(one.num_frames, [(w.name, w.frames.tolist()) for w in one.windows], shown=shown),
    )
