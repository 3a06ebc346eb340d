"""The page of a dataset's shards: how many of what, how long, made how, what failed, what it looks like, what leaks."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.pages.data import gallery as clips
from res3d_video.tools.pages.data.facts import SIDES, quantiles, split_column
from res3d_video.tools.pages.data.found import Found, Wanted, gather, rows_within_reach
from res3d_video.tools.pages.data.origin import gallery_section
from res3d_video.tools.pages.data.sections import sections
from res3d_video.tools.pages.data.texts import about_line, num_bytes, top_facts
from res3d_video.tools.pages.page import page
from res3d_video.train.terminal import Report

BYTES_BESIDE = 50_000  # of a page, besides its sections
NUMBERS = 8  # as much work as so many segments of the gallery, to a reader who waits
MOST_BYTES = 14_500_000  # that are aimed at; a page of more than 15 MB is not written

__all__ = ["Made", "Wanted", "data_page"]


@dataclass(frozen=True)
class Made:
    """A page, and what it says for machines."""

    html: str
    facts: dict[str, Any]


def data_page(index: ShardIndex, wanted: Wanted, *, report: Report) -> Made:
    """Look at a dataset and make its page.

    Raises:
        ValueError: There is no such split, or the clips ask for frames that the shards do not have.
        BenchError: matplotlib is not installed.
        ShardError: The server of a remote dataset is gone.
    """
    split = split_column(index, wanted.split)
    within = rows_within_reach(index, seed=wanted.seed)
    total = NUMBERS + wanted.num_classes * wanted.per_class
    report(0, total, "numbers")
    found = gather(index, within, split=split, seed=wanted.seed)
    before, after = sections(index, found)
    most = min(int(wanted.max_mb * 1e6), MOST_BYTES)
    room = most - BYTES_BESIDE - sum(len(section.body.encode("utf-8", "replace")) for section in before + after)
    gallery = clips.gather(
        index,
        wanted.clip,
        rows=within,
        split=split,
        seed=wanted.seed,
        num_views=wanted.num_views,
        num_classes=wanted.num_classes,
        per_class=wanted.per_class,
        max_bytes=room,
        report=lambda done, _: report(NUMBERS + done, total, "gallery"),
    )
    shown = gallery_section(index, gallery, wanted, is_partial=len(within) < index.num_samples)
    html = page(
        f"Shards of {index.name}",
        about=about_line(index, found),
        facts=top_facts(index, found),
        sections=[*before, shown, *after],
    )
    report(total, total)
    return Made(html, facts(index, found, gallery))


def facts(index: ShardIndex, found: Found, gallery: clips.Gallery) -> dict[str, Any]:
    """The page for JSON."""
    shortest, median, longest = quantiles(found.lengths, found.length_counts)
    by_class = {
        name: dict(zip(SIDES, row, strict=True)) for name, row in zip(index.classes, found.counts.tolist(), strict=True)
    }
    fps = np.array(found.looked_at.fps)
    rates, rate_counts = np.unique(fps[~np.isnan(fps)], return_counts=True)
    return {
        "name": index.name,
        "fingerprint": index.fingerprint,
        "num_samples": index.num_samples,
        "num_sources": found.num_sources,
        "num_frames": int((found.lengths * found.length_counts).sum()),
        "num_bytes": num_bytes(index),
        "hours": found.hours,
        "split": found.split,
        "classes": by_class,
        "balance": None if found.balance is None else asdict(found.balance) | {"ratio": found.balance.ratio},
        "lacking": found.lacking,
        "frames_of_a_sample": {"shortest": shortest, "median": median, "longest": longest},
        "sizes": [{"width": w, "height": h, "num_samples": n} for (w, h), n in found.sizes[0].items()],
        "source_sizes": [
            {"width": w, "height": h, "num_samples": n} for (w, h), n in found.looked_at.source_sizes.most_common()
        ],
        "fps": {f"{rate:g}": int(count) for rate, count in zip(rates, rate_counts, strict=True)},
        "num_looked_at": len(found.looked_at.rows),
        "num_unreadable": found.looked_at.num_unreadable,
        "warnings": dict(found.looked_at.warnings.most_common()),
        "quarantine": None if found.quarantine is None else asdict(found.quarantine),
        "manifest": None if found.manifest is None else {state: dict(own) for state, own in found.manifest.items()},
        "leaks": [leak.as_json() for leak in found.leaks],
        "gallery": [
            {
                "key": one.key,
                "class": index.classes[one.label],
                "side": one.side,
                "windows": {window.name: window.frames.tolist() for window in one.windows},
                "fault": one.fault or None,
            }
            for one in gallery.shown
        ],
    }
