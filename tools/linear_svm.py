#!/usr/bin/env python3
"""A linear SVM on features of videos: accuracy on the official splits, confusion, compactness."""

import sys
from pathlib import Path
from typing import Any

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

import csv
from collections.abc import Mapping, Sequence
from statistics import mean, stdev

import click
import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import choices
from res3d_video.tools.figures.plots import OURS, load_matplotlib, picture
from res3d_video.train.evaluation import accuracies_by_name, class_table
from res3d_video.train.evaluation.features import Features, load_features
from res3d_video.train.evaluation.linear_svm import GRID, NUM_FOLDS, SplitData, SplitScores, compactness, score_split
from res3d_video.train.terminal import JSON_FILE, MOST, QUIET, THREADS, Command, extra_needed, progress, save_json

MOST_NAMES = 40  # classes whose names still fit beside a matrix
EPILOG = """\b
Examples:
  python tools/linear_svm.py --features features/ucf101.parquet --layer res5b --json features/ucf101-svm.json
  python tools/linear_svm.py --features train.parquet --features test.parquet --splits 1 --layer pool5 \\
    --pca 10,20,50,100,200,500 --out features/svm
\b
A video's feature is the mean over its clips, of length 1. For each split, C is chosen by cross-validation among its
training videos, by group; then one SVM is fitted to all of them and predicts the test videos.
"""


class Numbers(click.ParamType):
    """Positive numbers with commas between."""

    name = "NUMBERS"

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple:
        try:
            numbers = value if isinstance(value, tuple) else tuple(self.kind(word) for word in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r:.80} is not a list of numbers such as 10,100", param, ctx)
        if not all(0 < number <= MOST for number in numbers):  # nor is NaN
            self.fail(f"{value!r:.80} has a number that is not above 0 and at most {MOST}", param, ctx)
        return numbers


@click.command(cls=Command, context_settings={"max_content_width": 110, "show_default": True}, epilog=EPILOG)
@click.option(
    "--features", "paths", required=True, multiple=True, type=click.Path(path_type=Path),
    help="Of tools/extract_features.py; may be given several times.",
)  # fmt: skip
@click.option("--layer", default="res5b", help="One of the layers in the files.")
@click.option("--splits", default="all", help="Names with commas between, or all that the files have whole.")
@click.option("--c", "grid", default=",".join(f"{c:g}" for c in GRID), type=Numbers(float), help="C to choose from.")
@click.option("--pca", default=(), show_default=False, type=Numbers(int), help="Principal components to score too.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path),
    help="Folder for confusion.csv, confusion.png and compactness.png.",
)  # fmt: skip
@click.option("--num-threads", default=1, type=THREADS, help="SVMs fitted at a time.")
@QUIET
@JSON_FILE
def main(
    *,
    paths: tuple[Path, ...],
    layer: str,
    splits: str,
    grid: tuple[float, ...],
    pca: tuple[int, ...],
    out: Path | None,
    num_threads: int,
    quiet: bool,
    json_path: Path | None,
) -> None:
    """A linear SVM on features of videos: accuracy on the official splits, confusion, compactness."""
    if out is not None:
        load_matplotlib()  # fails here, not after the work
    features = load_features(paths, [layer])
    chosen, notes = choose_splits(features, splits)
    scores: dict[str, SplitScores] = {}
    by_dims: dict[int, dict[str, SplitScores]] = {}
    num_fits = 1 if len(grid) == 1 else 1 + NUM_FOLDS * len(grid)  # at most, of one score
    total, done = len(chosen) * (1 + len(set(pca))) * num_fits, 0
    with extra_needed("features"), progress("fitting", unit="SVMs", quiet=quiet) as tell:

        def on_fit() -> None:
            nonlocal done
            done += 1
            tell(done, total)

        for split in chosen:
            data = SplitData(
                features=features.layers[layer],
                labels=features.labels,
                groups=features.groups,
                train=features.rows_of(split, "train"),
                test=features.rows_of(split, "test"),
                num_classes=len(features.classes),
            )
            scores[split] = score_split(data, grid=grid, num_threads=num_threads, on_fit=on_fit)
            of_components = compactness(data, dims=pca, grid=grid, num_threads=num_threads, on_fit=on_fit)
            for d, found in of_components.items():
                by_dims.setdefault(d, {})[split] = found
    confusion = np.sum([split.confusion for split in scores.values()], axis=0)
    if out is not None:
        title = f"{features.about['data']['name']}, linear SVM on {layer}, splits {', '.join(scores)}"
        write_confusion(out / "confusion.csv", classes=features.classes, confusion=confusion)
        draw_confusion(out / "confusion.png", title, classes=features.classes, confusion=confusion)
        if by_dims:
            accuracy = {d: accuracies(found) for d, found in by_dims.items()}
            draw_compactness(out / "compactness.png", title, accuracy, whole=mean(accuracies(scores)))
    if json_path is not None:
        save_json(json_path, summary(features, scores, by_dims, layer=layer))
    click.echo(
        f"{layer}, {features.layers[layer].shape[1]} dimensions, {len(features)} videos of "
        f"{features.about['data']['name']}, network of step {features.about['checkpoint']['step']}"
    )
    notes += warning_lines(features, scores, too_many=sorted(set(pca) - set(by_dims)))
    for line in score_lines(scores, by_dims) + class_table(features.classes, confusion):
        click.echo(line)
    for line in notes and ["", *(f"note: {note}" for note in notes)]:
        click.echo(line)
    if out is not None:
        click.echo(f"pictures {out}")
    if json_path is not None:
        click.echo(f"numbers {json_path}")


def choose_splits(features: Features, selection: str) -> tuple[list[str], list[str]]:
    """Names of the splits to score, and a note on each that is left out because the files lack videos of it."""
    lacking = {}
    for split in features.split_names:
        missing = features.num_missing(split) - len(features.unreadable)
        if missing > 0 or not all(len(features.rows_of(split, subset)) for subset in ("train", "test")):
            lacking[split] = f"split {split}: the files lack {missing} of its videos; extract them with --subset all"
    if selection == "all":
        whole = [split for split in features.split_names if split not in lacking]
        if not whole:
            raise UserError(next(iter(lacking.values())))
        return whole, [f"left out, {line}" for line in lacking.values()]
    for split in selection.split(","):
        if split not in features.split_names:
            raise click.UsageError(
                f"--splits: split {split} does not exist; choose {choices([*features.split_names, 'all'])}"
            )
        if split in lacking:
            raise UserError(lacking[split])
    return list(dict.fromkeys(selection.split(","))), []


def warning_lines(features: Features, scores: dict[str, SplitScores], *, too_many: list[int]) -> list[str]:
    """What a reader must know before believing the numbers."""
    lines = []
    for name, split in scores.items():
        if seen := features.num_test_seen(name):
            lines.append(f"split {name}: the network was trained on {seen} of the {len(split.labels)} test videos")
        if split.c_is_at_the_end:
            lines.append(f"split {name}: C = {split.c:g} is at the end of --c; try a wider range")
        if not split.converged:
            lines.append(f"split {name}: liblinear stopped before it converged, with C = {split.c:g}")
    if too_many:
        lines.append(f"--pca {','.join(map(str, too_many))}: left out, for there are not so many dimensions or videos")
    if len(features.unreadable):
        lines.append(f"{len(features.unreadable)} videos are left out, for no clip of theirs could be decoded")
    return lines


def summary(
    features: Features, scores: dict[str, SplitScores], by_dims: dict[int, dict[str, SplitScores]], *, layer: str
) -> dict[str, Any]:
    """Everything about the SVM: accuracies 0 to 1, C, classes, confusion, compactness, and the features' "about"."""
    found = accuracies(scores)
    return {
        "layer": layer,
        "num_dims": features.layers[layer].shape[1],
        "video_at_1": mean(found),
        "video_at_1_spread": spread(found),
        "splits": {
            name: {
                "video_at_1": split.accuracy,
                "num_train": split.num_train,
                "num_test": len(split.labels),
                "c": split.c,
                "c_accuracy": {f"{c:g}": accuracy for c, accuracy in split.c_accuracy.items()},
                "converged": split.converged,
                "num_test_seen": features.num_test_seen(name),
                "class_accuracy": accuracies_by_name(features.classes, split.confusion),
                "confusion": split.confusion.tolist(),  # row: class, column: predicted
            }
            for name, split in scores.items()
        },
        "compactness": {
            d: {name: {"video_at_1": split.accuracy, "c": split.c} for name, split in found.items()}
            for d, found in by_dims.items()
        },
        "features": features.about,
    }


def accuracies(scores: Mapping[str, SplitScores]) -> list[float]:
    """Of each split, 0 to 1."""
    return [split.accuracy for split in scores.values()]


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation of the sample (n - 1); None for one value."""
    return stdev(values) if len(values) > 1 else None


def percent(values: Sequence[float]) -> str:
    """
    >>> percent([0.45, 0.47]), percent([0.5])
    ('46.0% ± 1.4', '50.0%')
    """
    return f"{mean(values):.1%}" + (f" ± {100 * stdev(values):.1f}" if len(values) > 1 else "")


def score_lines(scores: dict[str, SplitScores], by_dims: dict[int, dict[str, SplitScores]]) -> list[str]:
    """A line a split, the mean, and a line a number of principal components; aligned."""
    lines = [f"{'split':<10}  train   test        C  video@1"]
    for name, split in scores.items():
        lines.append(f"{name:<10} {split.num_train:6} {len(split.labels):6} {split.c:8g}  {split.accuracy:7.1%}")
    lines.append(f"{'mean':<10} {'':22}  {percent(accuracies(scores)):>7}")
    if by_dims:
        lines += ["", f"{'components':<10}  video@1"]
    return lines + [f"{d:<10}  {percent(accuracies(found)):>7}" for d, found in by_dims.items()]


def draw_confusion(path: Path, title: str, *, classes: Sequence[str], confusion: np.ndarray) -> None:
    """Write a PNG: each class's videos (row) as shares of the predicted classes (column); classes without any stay out.

    Args:
        confusion: int64 [K, K], videos by class and predicted class.

    Raises:
        BenchError: matplotlib is not installed.
    """
    present = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
    names, counts = [classes[k] for k in present.tolist()], confusion[np.ix_(present, present)]
    with picture(path, title, size=(1100, 1000)) as figure:
        axes = figure.add_subplot()
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        figure.colorbar(image, ax=axes, shrink=0.8, label="share of the class's test videos")
        axes.set(xlabel="predicted", ylabel="class")
        if len(names) <= MOST_NAMES:
            axes.set_xticks(range(len(names)), names, rotation=90)
            axes.set_yticks(range(len(names)), names)


def draw_compactness(path: Path, title: str, accuracy: Mapping[int, Sequence[float]], *, whole: float) -> None:
    """Write a PNG: accuracy against the number of principal components.

    Args:
        accuracy: Components -> one accuracy a split.
        whole: Mean accuracy of the features as they are.

    Raises:
        BenchError: matplotlib is not installed.
    """
    dims = sorted(accuracy)
    means, spreads = [100 * mean(accuracy[d]) for d in dims], [100 * (spread(accuracy[d]) or 0) for d in dims]
    with picture(path, title, size=(1000, 700)) as figure:
        axes = figure.add_subplot()
        axes.errorbar(dims, means, yerr=spreads, color=OURS, marker="o", capsize=4, label="principal components")
        axes.axhline(100 * whole, color="0.5", linestyle="--", label="all dimensions")
        axes.set(xscale="log", xlabel="dimensions", ylabel="video@1, %: mean and spread over the splits")
        axes.set_xticks(dims, [str(d) for d in dims])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()


def write_confusion(path: Path, *, classes: Sequence[str], confusion: np.ndarray) -> None:
    """CSV: a line a class, a column a predicted class, videos in the cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", *classes])
        writer.writerows([name, *row] for name, row in zip(classes, confusion.tolist(), strict=True))


if __name__ == "__main__":
    main()
