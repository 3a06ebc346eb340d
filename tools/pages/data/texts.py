"""What a dataset's page says at its top, and how numbers are written on it."""

import json
from typing import Any

import numpy as np

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.pages.data.found import Found


def num_bytes(index: ShardIndex) -> int:
    """Of all tars."""
    return sum(shard["num_bytes"] for shard in index.info["shards"])


def bytes_text(count: int) -> str:
    """
    >>> bytes_text(223_190_000), bytes_text(1_500), bytes_text(12)
    ('223 MB', '1.5 kB', '12 B')
    """
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def hours_text(hours: float | None) -> str:
    """
    >>> hours_text(27.04), hours_text(0.4166), hours_text(None)
    ('27 h', '25 min', 'unknown')
    """
    if hours is None:
        return "unknown"
    return f"{hours:.3g} h" if hours >= 1 else f"{60 * hours:.2g} min"


def plural(count: int, one: str, several: str = "") -> str:
    """
    >>> plural(1, "class", "classes"), plural(2000, "group")
    ('1 class', '2,000 groups')
    """
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def value_text(value: Any) -> str:
    """A setting for people.

    >>> value_text(None), value_text(True), value_text(0.5), value_text({"a": [1]})
    ('not set', 'yes', '0.5', '{"a": [1]}')
    """
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:40]}… ({len(text):,} characters)"


def about_line(index: ShardIndex, found: Found) -> str:
    """One line below the title."""
    codec = f"filmstrips of {index.info['codec']['strip_frames']} frames" if index.codec == "filmstrip" else "H.264"
    (width, height), _ = max(found.sizes[0].items(), key=lambda item: item[1])
    place = index.data_dir if index.store is None else index.store.url
    often = ", most of them" if len(found.sizes[0]) > 1 else ""
    return f"{place}: {codec}, pictures{often} of {width}×{height} pixels."


def top_facts(index: ShardIndex, found: Found) -> dict[str, str]:
    """The few numbers at the top of the page."""
    train, test, unused = found.counts.sum(axis=0).tolist()
    about = "" if found.looked_at.is_all else "about "
    facts = {
        "Samples": f"{index.num_samples:,}",
        "Source videos": f"{found.num_sources:,}" if found.num_sources else "not named",
        "Classes": f"{found.balance.num_classes if found.balance else 0:,} of {len(index.classes):,}",
        "Frames": f"{int((found.lengths * found.length_counts).sum()):,}",
        "Time": hours_text(found.hours) if found.hours is None else about + hours_text(found.hours),
        "Size": bytes_text(num_bytes(index)),
        "Frames a second": rate_text(found),
        f"Split {found.split}: train + test": f"{train:,} + {test:,}" + (f", {unused:,} unused" if unused else ""),
    }
    count = sum(leak.count for leak in found.leaks)
    return facts | {"Leaks": f"{count:,}" if count else "none found"}


def rate_text(found: Found) -> str:
    """Frames a second of the samples that were looked at."""
    rates = np.array(found.looked_at.fps)
    rates = rates[~np.isnan(rates)]
    if not len(rates):
        return "unknown"
    low, high = rates.min(), rates.max()
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
