"""The page of one or several runs: how they learned, how fast, what they take for what, and in what they differ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.figures.runs import BOOKKEEPING, short_name
from res3d_video.tools.pages.page import Section, page
from res3d_video.tools.pages.run import mistakes as run_mistakes
from res3d_video.tools.pages.run import sections as parts
from res3d_video.tools.pages.run.clips import shards_of
from res3d_video.tools.pages.run.facts import Run
from res3d_video.tools.pages.run.looks import MOST_DRAWN
from res3d_video.tools.pages.run.reading import read_runs
from res3d_video.tools.pages.run.scores import SCORES, Scores, read_scores
from res3d_video.tools.pages.run.speed import BENCH, Bench, read_bench, wait_verdict
from res3d_video.tools.pages.run.tables import (
    CheckpointFile,
    checkpoint_files,
    differing,
    facts_of,
    hours_text,
    settings_of,
    value_text,
)
from res3d_video.train.terminal import Report


@dataclass(frozen=True)
class Wanted:
    """What a page of runs is asked to show.

    Attributes:
        data: Shards in which clips are looked for, before the place that a run's config.json names.
        bench: A file of tools/bench_loader.py; None looks for bench.json in the run folders.
        num_mistakes: Clips of mistakes of a run, at most.
    """

    data: Sequence[ShardIndex] = ()
    bench: Path | None = None
    num_mistakes: int = 12


@dataclass(frozen=True)
class Made:
    """A page, and what it says for machines."""

    html: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Gathered:
    """Everything that the sections are made of.

    Attributes:
        scores: Name of a run -> its evaluation, for those that have one.
        checkpoints: Name of a run -> its checkpoints.
    """

    runs: list[Run]
    scores: dict[str, Scores]
    checkpoints: dict[str, list[CheckpointFile]]
    benches: list[Bench] = field(default_factory=list)


def run_page(folders: Sequence[Path], wanted: Wanted, *, report: Report) -> Made:
    """Read run folders and make their page.

    Raises:
        ValueError: A folder is not a run's, or the benchmark's file is not one; in one line.
        BenchError: matplotlib is not installed.
        OSError: A file cannot be read.
    """
    found = gather(read_runs(folders), wanted, report=report)
    makers: list[tuple[str, Callable[[], Section]]] = [
        ("summary", lambda: parts.summary(found.runs)),
        ("learning", lambda: parts.learning(found.runs)),
        ("speed", lambda: parts.speed(found.runs, found.benches)),
        ("classes", lambda: run_mistakes.classes(found.runs, found.scores)),
        ("mistakes", lambda: run_mistakes.mistakes(found.runs, found.scores, wanted.data, most=wanted.num_mistakes)),
        ("filters", lambda: parts.filters(found.runs, found.checkpoints)),
        ("paper", lambda: parts.paper(found.runs)),
        ("settings", lambda: parts.settings(found.runs)),
        ("files", lambda: parts.files(found.runs, found.checkpoints)),
    ]
    sections = []
    for done, (name, make) in enumerate(makers, start=1):
        sections.append(make())
        report(len(found.runs) + done, len(found.runs) + len(makers), name)
    html = page(title_of(found.runs), about=about_line(found.runs), facts=top_facts(found.runs), sections=sections)
    return Made(html, facts(found))


def shards_to_score(folders: Sequence[Path], given: Sequence[ShardIndex]) -> list[tuple[Path, ShardIndex]]:
    """Run folders with the shards that each was trained on, for an evaluation before the page is made.

    Raises:
        ValueError: A folder is not a run's, or its shards are not there.
    """
    found = []
    for run in read_runs(folders):
        index, remark = shards_of(run, given)
        if index is None:
            raise UserError(f"{run.folder}: --evaluate needs the shards; {remark[:1].lower()}{remark[1:].rstrip('.')}")
        found.append((run.folder, index))
    return found


def gather(runs: list[Run], wanted: Wanted, *, report: Report) -> Gathered:
    """Evaluations, checkpoints and benchmarks of the runs; what is damaged becomes one of the run's problems."""
    scores, checkpoints, benches = {}, {}, []
    for done, run in enumerate(runs, start=1):
        checkpoints[run.name] = checkpoint_files(run.folder)
        try:
            if (run.folder / SCORES).exists():
                scores[run.name] = read_scores(run.folder / SCORES)
                run.evaluation.update(scores[run.name].about)
            if wanted.bench is None and (run.folder / BENCH).exists():
                benches.append(read_bench(run.folder / BENCH))
        except UserError as error:
            run.problems.append(str(error))
        report(done, len(runs) + 9, run.name)
    if wanted.bench is not None:
        benches.append(read_bench(wanted.bench))
    return Gathered(runs, scores, checkpoints, benches)


def title_of(runs: Sequence[Run]) -> str:
    """
    >>> title_of([])
    '0 runs'
    """
    if len(runs) == 1:
        return f"Run {runs[0].name}"
    names = ", ".join(run.name for run in runs) if 1 < len(runs) <= 4 else ""
    return f"{len(runs)} runs" + (f": {names}" if names else "")


def about_line(runs: Sequence[Run]) -> str:
    """What was trained on what; of several runs in what they differ."""
    if len(runs) > 1:
        names = [
            name
            for name in differing([settings_of(run) for run in runs])
            if name not in BOOKKEEPING and name not in ("preset", "data")
        ]
        data = " and ".join(dict.fromkeys(run.data or "unknown data" for run in runs))
        how = f"They differ in {', '.join(map(short_name, names))}." if names else "All other settings are the same."
        drawn = f" Charts show the first {MOST_DRAWN}." if len(runs) > MOST_DRAWN else ""
        return f"Trained on {data}. {how}{drawn}"
    run, config = runs[0], runs[0].config
    if config is None:
        return f"{run.folder}: its settings cannot be read."
    clip = config.clip
    return (
        f"{config.model.name} of width {config.model.width} on {run.data or 'unknown data'}, clips of "
        f"{clip.num_frames} frames, one of every {clip.frame_stride}, {clip.crop_size} pixels; {config.steps:,} steps "
        f"of {config.global_batch_size} clips; preset {value_text(run.about.get('preset'))}."
    )


def top_facts(runs: Sequence[Run]) -> dict[str, str]:
    """The few numbers at the top of the page."""
    if len(runs) > 1:
        by_state = [
            f"{sum(run.state == state for run in runs)} {state}" for state in ("finished", "running", "stopped")
        ]
        best = max((run for run in runs if run.best), key=lambda run: run.best or (0.0, 0), default=None)
        found = {"Runs": str(len(runs)), "State": ", ".join(text for text in by_state if not text.startswith("0 "))}
        if best and best.best and len({run.data for run in runs}) == 1:
            found["Best clip@1"] = f"{100 * best.best[0]:.1f} %, {best.name}"
        return found | {"Training": hours_text(sum(run.hours for run in runs))}
    run = runs[0]
    test = run.last_test
    found = {"State": run.state_text}
    chance = f", chance {100 * test['chance']:.1f} %" if "chance" in test else ""
    if "clip_at_1" in test:
        found[f"clip@1{chance}"] = f"{100 * test['clip_at_1']:.1f} %"
    if "video_at_1" in test:
        found["video@1"] = f"{100 * test['video_at_1']:.1f} %"
    if run.best:
        found["Best clip@1"] = f"{100 * run.best[0]:.1f} % at {run.best[1]:,}"
    found["Training"] = hours_text(run.hours)
    if run.clips_per_s is not None:
        found["Clips per second"] = f"{run.clips_per_s:,.1f}"
    if run.whole_wait is not None:
        found["Waiting for clips"] = f"{100 * run.whole_wait:.1f} %"
    return found


def facts(found: Gathered) -> dict[str, Any]:
    """The page for JSON: accuracies and shares are 0 to 1."""
    return {
        "runs": [
            facts_of(run, found.checkpoints[run.name])
            | {
                "wait_verdict": wait_verdict(run).text,
                "mistakes": run_mistakes.mistake_facts(found.scores.get(run.name)),
            }
            for run in found.runs
        ],
        "differ": differing([settings_of(run) for run in found.runs]),
        "bench": [bench.verdict for bench in found.benches],
    }
