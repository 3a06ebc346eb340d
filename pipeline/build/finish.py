"""The last step of a build, when all tars are there: the index over them, and dataset.json."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.build.manifest import STATES, counted, manifest_lines
from pipeline.build.parts import clean, is_finished, listed, remove, stale_names
from pipeline.build.plan import BuildPlan
from pipeline.index import ShardError
from pipeline.index_writer import Parts, write_index, write_lines

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
    stale = stale_names(out_dir, plan.names)
    if stale:
        (out_dir / "dataset.json").unlink(missing_ok=True)  # readers must not meet half of two builds
    for name in stale:
        remove(out_dir, name)
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
