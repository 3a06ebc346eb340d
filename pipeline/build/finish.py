"""The last step of a build, when all tars are there: the index over them, manifest.jsonl and dataset.json."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from res3d_video.pipeline.build.parts import clean, is_finished, listed
from res3d_video.pipeline.build.plan import BuildPlan
from res3d_video.pipeline.build.settings import BuildSettings
from res3d_video.pipeline.datasets import Listing
from res3d_video.pipeline.index import ShardError
from res3d_video.pipeline.index_writer import Parts, write_index, write_lines
from res3d_video.pipeline.source.segments import segment_length

STATES = ("present", "too short", "broken", "missing")  # of the videos that the lists name
NAMED = 3  # tars named in an error; of the others, how many


@dataclass(frozen=True)
class BuildResult:
    """What a build left behind.

    Attributes:
        failures: Why videos failed, the most frequent reason first, with how many.
        videos: How many lines of manifest.jsonl have each of its states; empty where there is none.
    """

    num_samples: int
    num_quarantined: int
    num_missing: int
    num_shards_written: int
    num_shards_kept: int
    num_files_changed: int
    failures: dict[str, int] = field(default_factory=dict)
    videos: dict[str, int] = field(default_factory=dict)


def not_there(plan: BuildPlan, out_dir: Path) -> list[str]:
    """Names of the tars that are not there, or were made from other inputs; their bytes are not read."""
    there = listed(out_dir)
    if there >= set(plan.names):  # only then is it worth while to open each part
        there = {t.name for t in plan.tasks if is_finished(out_dir, t.name, t.inputs, limits=t.limits, read=False)}
    return [name for name in plan.names if name not in there]


def write_whole(plan: BuildPlan, out_dir: Path, *, num_written: int, num_kept: int, alone: bool = True) -> BuildResult:
    """Write index, quarantine.jsonl, manifest.jsonl and dataset.json of tars that are all there.

    Two processes may do this at once: they write the same bytes, each under names of its own, and rename.

    Args:
        alone: No other process writes to this folder.

    Raises:
        ShardError: Some tar is not there.
    """
    absent = not_there(plan, out_dir)
    if absent:
        raise ShardError(
            f"{out_dir}: {len(absent)} of {len(plan.tasks)} shards are not there or made from other videos: "
            f"{first_of(absent)}; make them, and see that all machines share this folder, the videos and one version "
            "of every program"
        )
    for name in listed(out_dir) - set(plan.names):  # of an earlier build
        for stale in ("dataset.json", f"{name}.tar", f"{name}.idx", f"parts/{name}.json"):  # readers meet no half of it
            (out_dir / stale).unlink(missing_ok=True)
    listing, parts = plan.listing, Parts(out_dir, plan.names)
    missing = [{"source": s, "stage": "missing", "reason": "named in the lists, not found"} for s in listing.missing]
    videos, manifest_changed = {}, False
    if plan.settings.segment_s is not None:
        videos = dict.fromkeys(STATES, 0)
        lines = counted(manifest_lines(parts, listing, plan.settings), videos)
        manifest_changed = write_lines(out_dir / "manifest.jsonl", lines)
    tally, changed = write_index(out_dir, parts, head=plan.head, missing=missing)
    clean(out_dir, alone=alone)
    return BuildResult(
        num_samples=tally.samples,
        num_quarantined=len(tally.quarantine),
        num_missing=len(missing),
        num_shards_written=num_written,
        num_shards_kept=num_kept,
        num_files_changed=changed + manifest_changed,
        failures=reasons_of(tally.quarantine),
        videos=videos,
    )


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


def reasons_of(quarantine: Iterable[dict[str, str]]) -> dict[str, int]:
    """The reasons of quarantine.jsonl without the videos' names, the most frequent first, with how many videos each.

    Reasons that differ only in numbers are one, with … in their place.

    >>> reasons = ["a.mp4: has 7 frames", "b.mp4: is empty", "c.mp4: has 9 frames"]
    >>> reasons_of({"source": f"x/{reason[:5]}", "reason": reason} for reason in reasons)
    {'has … frames': 2, 'is empty': 1}
    """
    counts: Counter[str] = Counter()
    exact: dict[str, str] = {}
    for line in quarantine:
        reason = line["reason"].removeprefix(f"{Path(line['source']).name}: ")
        alike = re.sub(r"\b\d[\d.]*\b", "…", reason)
        counts[alike] += 1
        if exact.setdefault(alike, reason) != reason:
            exact[alike] = alike
    return {exact[alike]: count for alike, count in counts.most_common()}


def first_of(names: list[str]) -> str:
    """The first few, and how many more.

    >>> first_of(["a", "b"]), first_of(["a", "b", "c", "d", "e"])
    ('a, b', 'a, b, c and 2 more')
    """
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
