"""What a study has found so far: tables for people and for machines, plots, and what the paper's claims come to."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.bench.machine import machine, machine_lines, markdown, table, write
from res3d_video.tools.figures.plots import (
    CostPoint,
    TableRow,
    draw_cost,
    draw_curves,
    draw_table,
    read_curves,
    short_count,
)
from res3d_video.train.paper.study import RowScores, StudyRun, StudySettings, Verdict, is_enlarged, judge, read_scores
from res3d_video.train.paper.tables import TABLES, Row

HEADER = ["row", "network", "parameters", "multiply-adds", "runs", "clip accuracy", "video@1", "paper"]
HOW = """\
Clip accuracy is over all evenly spaced clips of the test videos, per cent: mean ± standard deviation over seeds. A
claim is seen when every comparison of it is clear, and not seen when one is clearly the other way round. Clear
means that every run of the one row is more accurate than every run of the other, with at least two seeds each."""
STRIDES = 4  # the table whose rows differ in their frame stride alone
LEAST_LEARNED = 0.05  # above chance, so that there is something to compare


@dataclass(frozen=True)
class Findings:
    """What a study knows so far.

    Attributes:
        about: What was run on what, lines for people.
        rows: Number of a table -> name of a row -> its scores; rows without a run are not there.
        folders: Number of a table -> folder of the first seed's run of each row that is done.
        chance: 0 to 1.
        notes: What a reader must know, one line each.
    """

    about: Sequence[str]
    rows: Mapping[int, Mapping[str, RowScores]]
    folders: Mapping[int, Sequence[Path]]
    chance: float
    notes: Sequence[str]

    def verdict(self, number: int) -> Verdict:
        """Of the claim of a table."""
        return judge(TABLES[number].claim, self.rows[number])

    def cells(self, number: int) -> list[list[str]]:
        """A table for people, under HEADER; accuracies per cent."""
        return [cells(row, self.rows[number].get(row.name)) for row in TABLES[number].rows]


def collect(
    planned: Mapping[tuple[int, str, int], StudyRun],
    settings: StudySettings,
    indexes: Sequence[ShardIndex],
    *,
    out: Path,
) -> Findings:
    """Everything that is done.

    Args:
        planned: By number of a table, name of a row, and seed.
    """
    done = {key: (run, scores) for key, run in planned.items() if (scores := read_scores(out, run)) is not None}
    rows: dict[int, dict[str, RowScores]] = {number: {} for number, _, _ in planned}
    for number, table_rows in rows.items():
        for row in TABLES[number].rows:
            found = [value for key, value in done.items() if key[:2] == (number, row.name)]
            if found:
                run, accuracies = found[0][0], [s["all_clips_at_1"] for _, s in found]
                videos = [s["video_at_1"] for _, s in found]
                table_rows[row.name] = RowScores(row, run.parameters, run.multiply_adds, accuracies, videos)
    folders = {n: [out / run.folder for key, (run, _) in done.items() if (key[0], key[2]) == (n, 0)] for n in rows}
    config, num_test = next(iter(planned.values())).config, len(indexes[0].samples_of(settings.split, "test"))
    about = [
        f"{indexes[0].name}, split {settings.split}: {num_test} test samples, {config.steps:,} steps of "
        f"{config.global_batch_size} clips, crop {settings.size} for 112, width × {settings.width_scale:g}",
        *machine_lines(machine("torch", "nvidia-dali-cuda130", "nvidia-dali-cuda120")),
    ]
    chance = next((scores["chance"] for _, scores in done.values()), 0.0)
    return Findings(about, rows, folders, chance, notes_of(planned, rows, settings, indexes, chance=chance))


def notes_of(
    planned: Mapping[tuple[int, str, int], StudyRun],
    rows: Mapping[int, Mapping[str, RowScores]],
    settings: StudySettings,
    indexes: Sequence[ShardIndex],
    *,
    chance: float,
) -> list[str]:
    """What a reader must know before believing the tables."""
    ours, paper, notes = asdict(settings), asdict(StudySettings(split=settings.split, clips=settings.clips)), []
    if differing := [name for name, value in ours.items() if value != paper[name]]:
        notes.append(f"not the paper's protocol: {', '.join(differing).replace('_', ' ')} differ")
    if enlarged := sorted({run.name for run in planned.values() if is_enlarged(run, indexes)}):
        notes.append(f"enlarged from {max(index.size for index in indexes)} pixels: {', '.join(enlarged)}")
    for number, of_table in rows.items():
        if of_table and max(mean(row.clip_accuracy) for row in of_table.values()) < chance + LEAST_LEARNED:
            notes.append(
                f"table {number}: no row is {100 * LEAST_LEARNED:.0f} points above chance, {chance:.1%}; train longer"
            )
    return notes


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation over seeds; None for one."""
    return stdev(values) if len(values) > 1 else None


def percent(values: Sequence[float]) -> str:
    """
    >>> percent([0.45, 0.47]), percent([0.5])
    ('46.0 ± 1.4', '50.0')
    """
    around = spread(values)
    return f"{100 * mean(values):.1f}" + ("" if around is None else f" ± {100 * around:.1f}")


def cells(row: Row, scores: RowScores | None) -> list[str]:
    """A row under HEADER."""
    paper = "–" if row.paper is None else f"{row.paper:.1f}"
    if scores is None:
        return [row.name, row.model, "–", "–", "0", "–", "–", paper]
    cost = [f"{scores.parameters:,}", short_count(scores.multiply_adds), str(len(scores.clip_accuracy))]
    return [row.name, row.model, *cost, percent(scores.clip_accuracy), percent(scores.video_at_1), paper]


def table_lines(number: int, findings: Findings) -> list[str]:
    """A table for a terminal, with its verdict."""
    of_paper, verdict = TABLES[number], findings.verdict(number)
    lines = [f"Table {number}: {of_paper.factor}", *table(HEADER, findings.cells(number))]
    return [*lines, f"{of_paper.claim.text}: {verdict.word}", *(f"  {reason}" for reason in verdict.reasons)]


def page(findings: Findings) -> str:
    """Everything as Markdown."""
    verdicts = {number: findings.verdict(number) for number in findings.rows}
    claims = [[TABLES[number].claim.text, str(number), verdict.word] for number, verdict in verdicts.items()]
    lines = ["# Architecture study", "", *(f"{line}  " for line in findings.about), "", HOW, ""]
    lines += [*markdown(["claim", "table", "verdict"], claims), "", *(f"- {note}" for note in findings.notes)]
    for number, verdict in verdicts.items():
        of_paper = TABLES[number]
        lines += ["", f"## Table {number}: {of_paper.factor}", "", *markdown(HEADER, findings.cells(number)), ""]
        lines += [of_paper.note, ""] if of_paper.note else []
        lines += [f"**{verdict.word}**: {of_paper.claim.text}.", "", *(f"- {reason}" for reason in verdict.reasons)]
        if findings.rows[number]:
            lines += ["", f"![Table {number}](table-{number}.png)"]
            lines += ["", f"![Learning curves of Table {number}](table-{number}-curves.png)"]
    if any(findings.rows.values()):
        lines += ["", "## Accuracy against cost", "", "![accuracy against multiply-adds](accuracy-cost.png)"]
    return "\n".join(lines)


def csv_row(number: int, scores: RowScores) -> dict[str, Any]:
    """A row of tables.csv; accuracies per cent."""

    def per_cent(value: float | None) -> float | str:
        return "" if value is None else round(100 * value, 2)

    row = scores.row
    return {
        "table": number,
        "row": row.name,
        "model": row.model,
        "num_frames": row.num_frames,
        "frame_stride": row.frame_stride,
        "parameters": scores.parameters,
        "multiply_adds": scores.multiply_adds,
        "runs": len(scores.clip_accuracy),
        "clip_accuracy": per_cent(mean(scores.clip_accuracy)),
        "clip_accuracy_spread": per_cent(spread(scores.clip_accuracy)),
        "video_at_1": per_cent(mean(scores.video_at_1)),
        "video_at_1_spread": per_cent(spread(scores.video_at_1)),
        "paper_clip_accuracy": "" if row.paper is None else row.paper,
    }


def write_report(out: Path, findings: Findings) -> None:
    """study.md and tables.csv; table-N.png and table-N-curves.png of each table, accuracy-cost.png of all.

    Raises:
        BenchError: matplotlib is not installed.
        UserError: The metrics of a run cannot be read.
    """
    found = [(number, scores) for number, rows in findings.rows.items() for scores in rows.values()]
    if found:
        with (out / "tables.csv").open("w", encoding="utf-8", newline="") as file:
            rows = [csv_row(number, scores) for number, scores in found]
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        title = f"Accuracy against cost\n{findings.about[0]}"
        draw_cost(out / "accuracy-cost.png", cost_points(findings), title=title)
    for number in {number: None for number, _ in found}:
        of_paper = TABLES[number]
        title = f"Table {number}: {of_paper.factor}\n{findings.about[0]}"
        rows_drawn = [table_row(row, findings.rows[number].get(row.name)) for row in of_paper.rows]
        chance = 100 * findings.chance
        draw_table(out / f"table-{number}.png", rows_drawn, title=title, factor=of_paper.factor, chance=chance)
        if findings.folders[number]:
            curves = [read_curves(folder) for folder in findings.folders[number]]
            draw_curves(out / f"table-{number}-curves.png", curves, title=f"{title}\nthe first seed's runs")
    write(out / "study.md", page(findings))


def table_row(row: Row, scores: RowScores | None) -> TableRow:
    """A row of a table's plot."""
    if scores is None:
        return TableRow(row.name, None, None, row.paper)
    return TableRow(row.name, 100 * mean(scores.clip_accuracy), 100 * (spread(scores.clip_accuracy) or 0), row.paper)


def cost_points(findings: Findings) -> list[CostPoint]:
    """Each network once. A frame stride costs nothing, so Table 4 is left out unless it is the only one."""
    numbers = [number for number in findings.rows if number != STRIDES and findings.rows[number]] or [STRIDES]
    points: dict[tuple[str, int], CostPoint] = {}
    for scores in (scores for number in numbers for scores in findings.rows[number].values()):
        row, around = scores.row, spread(scores.clip_accuracy)
        name = f"{row.model}, stride {row.frame_stride}" if numbers == [STRIDES] else row.model
        accuracy, around = 100 * mean(scores.clip_accuracy), None if around is None else 100 * around
        cost = CostPoint(name, scores.parameters, scores.multiply_adds, accuracy, around)
        points[(row.model, row.frame_stride)] = cost
    return list(points.values())
