"""What the runs of a study have found so far, and what a reader must know of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.bench.machine import machine, machine_lines
from res3d_video.train.study.results import Difference, RowScores, difference, groups_of, is_done, read_scores
from res3d_video.train.study.runs import StudyRun, StudySettings, is_enlarged
from res3d_video.train.study.tables import TABLES, Claim

SEEN, NOT_SEEN, UNDECIDED = "seen", "not seen", "undecided"


@dataclass(frozen=True)
class Verdict:
    """Of one claim.

    Attributes:
        word: "seen", "not seen" or "undecided".
        reasons: Which comparisons speak against it, or leave it open; one line each.
    """

    word: str
    reasons: tuple[str, ...] = ()


def judge(claim: Claim, rows: Mapping[str, RowScores]) -> Verdict:
    """Seen when every comparison of the claim is clear, not seen when one is clearly the other way round.

    Clear means that the 95 % interval of the difference leaves out zero; it is not widened for the number of
    comparisons.

    Args:
        rows: Rows of the table that have runs.
    """
    against, unclear = [], []
    for names, wanted in [(pair, True) for pair in claim.above] + [(pair, False) for pair in claim.not_below]:
        if lacking := [name for name in names if name not in rows]:
            unclear.append(f"{' and '.join(lacking)} not run")
            continue
        found = difference(rows[names[0]], rows[names[1]])
        line = comparison(*names, found)
        if found.is_below:
            against.append(line)
        elif found.interval is None or (wanted and not found.is_above):
            unclear.append(line)
    if against:
        return Verdict(NOT_SEEN, tuple(against))
    if unclear:
        return Verdict(UNDECIDED, tuple(dict.fromkeys(unclear)))
    return Verdict(SEEN)


def comparison(name: str, rival: str, found: Difference) -> str:
    """
    >>> comparison("18", "10", Difference(0.021, (-0.01, 0.052)))
    '18 against 10: +2.1 points, between -1.0 and +5.2'
    """
    line = f"{name} against {rival}: {100 * found.mean:+.1f} points"
    if found.interval is None:
        return f"{line}, one seed"
    return f"{line}, between {100 * found.interval[0]:+.1f} and {100 * found.interval[1]:+.1f}"


LEAST_LEARNED = 0.05  # above chance, so that there is something to compare


@dataclass(frozen=True)
class Findings:
    """What a study knows so far.

    Attributes:
        about: What was run on what, lines for people.
        rows: Number of a table -> name of a row -> its scores; rows without a run are not there.
        tables: Their numbers, in order.
        folders: Number of a table -> folder of the first seed's run of each row that is done.
        chance: 0 to 1.
        notes: What a reader must know, one line each.
    """

    about: Sequence[str]
    tables: Sequence[int]
    rows: Mapping[int, Mapping[str, RowScores]]
    folders: Mapping[int, Sequence[Path]]
    chance: float
    notes: Sequence[str]

    def verdict(self, number: int) -> Verdict:
        """Of the claim of a table."""
        return judge(TABLES[number].claim, self.rows[number])


def collect(
    planned: Mapping[tuple[int, str, int], StudyRun],
    numbers: Sequence[int],
    settings: StudySettings,
    indexes: Sequence[ShardIndex],
    *,
    out: Path,
) -> Findings:
    """Everything that is done, for the report."""
    groups = groups_of(indexes[0], settings.split)
    done = {key: run for key, run in planned.items() if is_done(out, run)}
    rows: dict[int, dict[str, RowScores]] = {number: {} for number in numbers}
    for number in numbers:
        for row in TABLES[number].rows:
            runs = [run for (n, name, _), run in done.items() if (n, name) == (number, row.name)]
            if runs:
                scores = tuple(read_scores(out, run, groups=groups) for run in runs)
                rows[number][row.name] = RowScores(row, runs[0].parameters, runs[0].multiply_adds, scores)
    folders = {n: [out / run.folder for key, run in done.items() if (key[0], key[2]) == (n, 0)] for n in numbers}
    some = next((scores.runs[0] for table in rows.values() for scores in table.values()), None)
    config = next(iter(planned.values())).config
    facts = machine("torch", "nvidia-dali-cuda130", "nvidia-dali-cuda120")
    about = [
        f"{indexes[0].name}, split {settings.split}: {len(groups)} test videos, {config.steps:,} steps of "
        f"{config.global_batch_size} clips, crop {settings.size} for 112, width × {settings.width_scale:g}",
        *machine_lines(facts),
    ]
    chance = some.chance if some else 0.0
    notes = notes_of(planned, settings, indexes, num_groups=len(set(groups.values())))
    return Findings(about, numbers, rows, folders, chance, notes + untrained(rows, chance=chance))


def notes_of(
    planned: Mapping[tuple[int, str, int], StudyRun],
    settings: StudySettings,
    indexes: Sequence[ShardIndex],
    *,
    num_groups: int,
) -> list[str]:
    """What a reader must know before believing the tables."""
    paper = StudySettings(split=settings.split, clips=settings.clips)
    notes = []
    if settings != paper:
        names = [name for name, value in settings.describe().items() if value != paper.describe()[name]]
        notes.append(f"not the paper's protocol: {', '.join(names).replace('_', ' ')} differ")
    notes.append(f"the test side has {num_groups} groups of videos; few groups leave wide intervals")
    enlarged = sorted({run.folder.parent.name for run in planned.values() if is_enlarged(run, indexes)})
    if enlarged:
        notes.append(f"enlarged from {max(index.size for index in indexes)} pixels: {', '.join(enlarged)}")
    return notes


def untrained(rows: dict[int, dict[str, RowScores]], *, chance: float) -> list[str]:
    """A note on each table whose rows have not learned enough to be compared."""
    best = {n: max(row.clip_accuracy[0] for row in table.values()) for n, table in rows.items() if table}
    return [
        f"table {number}: no row is {100 * LEAST_LEARNED:.0f} points above chance, {chance:.1%}; train longer"
        for number, accuracy in best.items()
        if accuracy < chance + LEAST_LEARNED
    ]
