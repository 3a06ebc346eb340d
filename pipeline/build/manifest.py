"""manifest.jsonl of datasets that are cut into segments: what became of every video that the lists name."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.build.settings import BuildSettings
from pipeline.datasets import Listing
from pipeline.source.segments import segment_length

STATES = ("present", "too short", "broken", "missing")


def manifest_lines(
    parts: Iterable[dict[str, Any]], listing: Listing, settings: BuildSettings
) -> Iterator[dict[str, Any]]:
    """One line a video, in the order of the tars, then those that are missing.

    A line has the video's `id`, `state` and `subset`, this one for missing videos where the adapter knows it; and
    `in_both_lists` where that is so.
    "present" and "too short" (one segment, the whole video) come with `source`, `num_segments`, `num_frames` and `fps`
    of the source; "broken" with `source` and `reason`.
    """
    subset_of = {record.source: record.subsets[0] for record in listing.records}
    for part in parts:
        for first, num_segments in videos_of(part["samples"]):
            length = segment_length(settings.segment_s or 0, fps=first["fps"])
            yield {
                **_about(Path(first["source"]).stem, listing),
                "state": "too short" if first["num_frames_source"] < length else "present",
                "subset": subset_of[first["source"]],
                "source": first["source"],
                "num_segments": num_segments,
                "num_frames": first["num_frames_source"],
                "fps": first["fps"],
            }
        for line in part["quarantine"]:
            about = _about(Path(line["source"]).stem, listing)
            about |= {"state": "broken", "subset": subset_of[line["source"]]}
            yield about | {"source": line["source"], "reason": line["reason"]}
    for name in listing.missing:
        about = _about(name, listing) | {"state": "missing"}
        yield about | ({"subset": listing.subset_of_missing[name]} if name in listing.subset_of_missing else {})


def videos_of(samples: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], int]]:
    """The first sample of each video and how many it has; samples of a video follow one another.

    >>> [(s["key"], n) for s, n in videos_of([{"key": k, "source": k[0]} for k in ("a0", "a1", "b0")])]
    [('a0', 2), ('b0', 1)]
    """
    counts = Counter(sample["source"] for sample in samples)
    for sample in samples:
        if sample["source"] in counts:
            yield sample, counts.pop(sample["source"])


def counted(lines: Iterable[dict[str, Any]], counts: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Pass lines on and count their states into `counts`."""
    for line in lines:
        counts[line["state"]] = counts.get(line["state"], 0) + 1
        yield line


def _about(name: str, listing: Listing) -> dict[str, Any]:
    return {"id": name} | ({"in_both_lists": True} if name in listing.in_both else {})
