"""How tools/study.py reports: tables for people and for machines, pictures, and what the paper's claims come to."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from res3d_video.tools.bench.chart import picture
from res3d_video.tools.bench.machine import markdown, table, write
from res3d_video.tools.figures.colors import MANY
from res3d_video.tools.figures.cost import CostPoint, draw_cost, short_count
from res3d_video.tools.figures.curves import draw_curves, read_curves
from res3d_video.tools.study_findings import Findings
from res3d_video.train.study.results import RowScores
from res3d_video.train.study.tables import TABLES, Row, Table

HEADER = ["row", "network", "parameters", "multiply-adds", "runs", "clip accuracy", "video@1", "paper"]
COLUMNS = [
    "table", "row", "model", "num_frames", "frame_stride", "parameters", "multiply_adds", "runs", "clip_accuracy",
    "clip_accuracy_spread", "video_at_1", "video_at_1_spread", "paper_clip_accuracy",
]  # fmt: skip


HOW = """\
Clip accuracy is over all evenly spaced clips of the test videos, per cent: mean ± standard deviation over seeds. A
claim is seen when every comparison of it is clear, and not seen when one is clearly the other way round. Clear
means that the 95 % interval of the difference, over seeds and test groups, leaves out zero; it is not widened for
their number."""
STRIDES = 4  # the table whose rows differ in their frame stride alone


def percent(found: tuple[float, float | None]) -> str:
    """
    >>> percent((0.4563, 0.0121)), percent((0.5, None))
    ('45.6 ± 1.2', '50.0')
    """
    mean, spread = found
    return f"{100 * mean:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def cells(row: Row, scores: RowScores | None) -> list[str]:
    """A row of a table for people; accuracies per cent."""
    paper = "–" if row.paper is None else f"{row.paper:.1f}"
    if scores is None:
        return [row.name, row.model, "–", "–", "0", "–", "–", paper]
    cost = [f"{scores.parameters:,}", short_count(scores.multiply_adds)]
    accuracy = [percent(scores.clip_accuracy), percent(scores.video_at_1)]
    return [row.name, row.model, *cost, str(len(scores.runs)), *accuracy, paper]


def table_lines(number: int, findings: Findings) -> list[str]:
    """A table for a terminal, with its verdict."""
    of_paper, verdict = TABLES[number], findings.verdict(number)
    rows = [cells(row, findings.rows[number].get(row.name)) for row in of_paper.rows]
    lines = [f"Table {number}: {of_paper.factor}", *table(HEADER, rows)]
    return [*lines, f"{of_paper.claim.text}: {verdict.word}", *(f"  {reason}" for reason in verdict.reasons)]


def page(findings: Findings) -> str:
    """Everything as Markdown."""
    lines = ["# Architecture study", "", *(f"{line}  " for line in findings.about), ""]
    lines += [HOW, ""]
    verdicts = {number: findings.verdict(number) for number in findings.tables}
    lines += markdown(
        ["claim", "table", "verdict"],
        [[TABLES[number].claim.text, str(number), verdict.word] for number, verdict in verdicts.items()],
    )
    lines += ["", *(f"- {note}" for note in findings.notes)]
    for number, verdict in verdicts.items():
        of_paper = TABLES[number]
        rows = [cells(row, findings.rows[number].get(row.name)) for row in of_paper.rows]
        lines += ["", f"## Table {number}: {of_paper.factor}", "", *markdown(HEADER, rows), ""]
        lines += [f"{of_paper.note}", ""] if of_paper.note else []
        lines += [f"**{verdict.word}**: {of_paper.claim.text}.", "", *(f"- {reason}" for reason in verdict.reasons)]
        if findings.rows[number]:
            lines += ["", f"![Table {number}](table-{number}.png)"]
            lines += ["", f"![Learning curves of Table {number}](table-{number}-curves.png)"]
    if any(findings.rows.values()):
        lines += ["", "## Accuracy against cost", "", "![accuracy against multiply-adds](accuracy-cost.png)"]
    return "\n".join(lines)


def csv_rows(number: int, findings: Findings) -> list[dict[str, Any]]:
    """The rows of a table that have runs, by COLUMNS; accuracies per cent."""
    rows = []
    for row in TABLES[number].rows:
        scores = findings.rows[number].get(row.name)
        if scores is None:
            continue
        (clip, clip_spread), (video, video_spread) = scores.clip_accuracy, scores.video_at_1
        values = [number, row.name, row.model, row.num_frames, row.frame_stride, scores.parameters]
        values += [scores.multiply_adds, len(scores.runs)]
        values += [in_percent(value) for value in (clip, clip_spread, video, video_spread)]
        rows.append(dict(zip(COLUMNS, [*values, "" if row.paper is None else row.paper], strict=True)))
    return rows


def in_percent(value: float | None) -> float | str:
    return "" if value is None else round(100 * value, 2)


def write_report(out: Path, findings: Findings) -> None:
    """study.md; table-N.csv, table-N.png and table-N-curves.png of each table, tables.csv and accuracy-cost.png of all.

    Raises:
        BenchError: matplotlib is not installed.
        ValueError: The metrics of a run cannot be read.
    """
    for number in findings.tables:
        rows = csv_rows(number, findings)
        write_csv(out / f"table-{number}.csv", rows)
        if rows:
            draw(out / f"table-{number}.png", TABLES[number], findings)
            curves = [read_curves(folder) for folder in findings.folders[number]]
            title = f"Table {number}: {TABLES[number].factor}, the first seed's runs\n{findings.about[0]}"
            draw_curves(out / f"table-{number}-curves.png", curves, title=title)
    write_csv(out / "tables.csv", [row for number in findings.tables for row in csv_rows(number, findings)])
    points = cost_points(findings)
    if points:
        draw_cost(out / "accuracy-cost.png", points, title=f"Accuracy against cost\n{findings.about[0]}")
    write(out / "study.md", page(findings))


def draw(path: Path, of_paper: Table, findings: Findings) -> None:
    """A table's picture."""
    rows = []
    for row in of_paper.rows:
        scores = findings.rows[of_paper.number].get(row.name)
        mean, spread = scores.clip_accuracy if scores is not None else (None, None)
        accuracy, bar = (None if value is None else 100 * value for value in (mean, spread))
        rows.append(TableRow(row.name, accuracy, bar, row.paper))
    title = f"Table {of_paper.number}: {of_paper.factor}\n{findings.about[0]}"
    draw_table(path, rows, title=title, factor=of_paper.factor, chance=100 * findings.chance)


def cost_points(findings: Findings) -> list[CostPoint]:
    """Each network once. A frame stride costs nothing, so Table 4 is left out unless it is the only one."""
    tables = [number for number in findings.tables if number != STRIDES] or list(findings.tables)
    points: dict[tuple[str, int], CostPoint] = {}
    for scores in (scores for number in tables for scores in findings.rows[number].values()):
        row, (mean, spread) = scores.row, scores.clip_accuracy
        name = f"{row.model}, stride {row.frame_stride}" if tables == [STRIDES] else row.model
        points[(row.model, row.frame_stride)] = CostPoint(
            name, scores.parameters, scores.multiply_adds, 100 * mean, None if spread is None else 100 * spread
        )
    return list(points.values())


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A header and the rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


OURS_COLOR, PAPER_COLOR, CHANCE_COLOR = MANY[0], MANY[1], "0.45"
OURS_MARK, PAPER_MARK = "o", "D"
HEIGHT, ROW_WIDTH, LEAST_WIDTH = 650, 95, 1000  # pixels


@dataclass(frozen=True)
class TableRow:
    """A row; accuracies per cent, None where there is none.

    Attributes:
        spread: Half the length of the error bar, percentage points.
    """

    name: str
    accuracy: float | None
    spread: float | None
    paper: float | None


def draw_table(path: Path, rows: Sequence[TableRow], *, title: str, factor: str, chance: float) -> None:
    """Write a PNG: rows from left to right in the table's order, accuracy upwards.

    Args:
        factor: What the rows differ in.
        chance: Per cent, of a uniform guess among the classes that were scored; the paper's are others.

    Raises:
        BenchError: matplotlib is not installed.
    """
    with picture(path, title, size=(max(LEAST_WIDTH, 200 + ROW_WIDTH * len(rows)), HEIGHT)) as figure:
        axes = figure.add_subplot()
        ours = [(i, row.accuracy, row.spread or 0.0) for i, row in enumerate(rows) if row.accuracy is not None]
        if ours:
            places, means, spreads = zip(*ours, strict=True)
            style = {"color": OURS_COLOR, "marker": OURS_MARK, "markersize": 10, "capsize": 7, "linestyle": "none"}
            axes.errorbar(places, means, yerr=spreads, **style, label="ours: mean, spread over seeds", zorder=3)
        for place, mean, spread in ours:
            beside = {"textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 12}
            axes.annotate(f"{mean:.1f}", (place, mean + spread), (0, 7), **beside, color=OURS_COLOR)
        printed = [(i, row.paper) for i, row in enumerate(rows) if row.paper is not None]
        if printed:
            style = {"marker": PAPER_MARK, "s": 80, "facecolors": "none", "edgecolors": PAPER_COLOR, "linewidths": 2}
            axes.scatter(*zip(*printed, strict=True), **style, label="the paper, all of UCF101", zorder=2)
        axes.axhline(chance, color=CHANCE_COLOR, linestyle="--", linewidth=1.2, label=f"chance here, {chance:.0f} %")
        axes.set_xticks(range(len(rows)), [row.name for row in rows], fontsize=13)
        axes.set_xlim(-0.6, len(rows) - 0.4)
        highest = max([chance, *(mean + spread for _, mean, spread in ours), *(value for _, value in printed)])
        axes.set_ylim(0, min(100.0, 1.05 * highest) + 0.1 * highest)
        axes.set_xlabel(factor, fontsize=13)
        axes.set_ylabel("clip accuracy, %", fontsize=13)
        axes.tick_params(axis="y", labelsize=12)
        axes.grid(axis="y", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=12, columnspacing=1.5)
