#!/usr/bin/env python3
"""A linear SVM on features of videos: accuracy on the official splits, and which classes are confused."""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video


import click
import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import choices
from res3d_video.tools.plots import load_matplotlib, picture
from res3d_video.train.evaluation import accuracies_by_name, class_table, percent
from res3d_video.train.evaluation.features import Features, load_features
from res3d_video.train.evaluation.linear_svm import SplitScores, score_split
from res3d_video.train.terminal import (
    JSON_FILE,
    QUIET,
    THREADS,
    Command,
    Number,
    OutputFile,
    extra_needed,
    progress,
    save_json,
    text_table,
)

MOST_NAMES = 40  # class names that fit beside a matrix
EPILOG = """\b
Examples:
  python tools/linear_svm.py --features features/ucf101.parquet --layer res5b --json features/ucf101-svm.json
  python tools/linear_svm.py --features features/hmdb51.parquet --layer pool5 --splits 1 --c 1 --out confusion.png

\b
The feature of a video is the mean over its clips, scaled to length 1. For each split, C is chosen by cross-validation
on its training videos, keeping groups together; then an SVM is fitted to all of them and predicts the test videos.
"""


@click.command(cls=Command, context_settings={"max_content_width": 110, "show_default": True}, epilog=EPILOG)
@click.option(
    "--features", "path", required=True, type=click.Path(path_type=Path), help="Folder of features, .parquet."
)
@click.option("--layer", default="res5b", help="Layer to use.")
@click.option("--splits", default="all", help="Splits to score: all, or a list like 1,3.")
@click.option("--c", type=Number(0, 1e9, min_open=True), help="C of the SVM.  [default: chosen by cross-validation]")
@click.option("--out", type=OutputFile(".png"), help="Draw the confusion matrix here.")
@click.option("--num-threads", default=1, type=THREADS, help="SVMs to fit at a time.")
@QUIET
@JSON_FILE
def main(
    *,
    path: Path,
    layer: str,
    splits: str,
    c: float | None,
    out: Path | None,
    num_threads: int,
    quiet: bool,
    json_path: Path | None,
) -> None:
    """A linear SVM on features of videos: accuracy on the official splits, and which classes are confused."""
    if out is not None:
        load_matplotlib()  # fails here, not after the work
    features = load_features(path, [layer]).of_videos()
    values, dataset = features.layers[layer], features.about["data"]["name"]
    chosen = choose_splits(features, splits)
    scores: dict[str, SplitScores] = {}
    with extra_needed("features"), progress("fitting", unit="splits", quiet=quiet) as tell:
        for split in chosen:
            tell(len(scores), len(chosen))
            scores[split] = score_split(
                values,
                features.labels,
                features.groups,
                train=features.rows_of(split, "train"),
                test=features.rows_of(split, "test"),
                num_classes=len(features.classes),
                c=c,
                num_threads=num_threads,
            )
    confusion = np.sum([split.confusion for split in scores.values()], axis=0)
    if out is not None:
        title = f"{dataset}, linear SVM on {layer}, splits {', '.join(scores)}"
        draw_confusion(out, title, classes=features.classes, confusion=confusion)
    if json_path is not None:
        save_json(json_path, summary(features, scores, layer=layer))
    about = f"{layer}, {values.shape[1]} dimensions, {len(features)} videos of {dataset}"
    click.echo(f"{about}, network of step {features.about['checkpoint']['step']}")
    rows = [
        [name, str(s.num_train), str(len(s.labels)), f"{s.c:g}", percent([s.accuracy])] for name, s in scores.items()
    ]
    rows.append(["mean", "", "", "", percent([split.accuracy for split in scores.values()])])
    lines = text_table(["split", "train", "test", "C", "video@1, %"], rows) + class_table(features.classes, confusion)
    for line in lines + [f"note: {note}" for note in notes_of(features, scores)]:
        click.echo(line)
    for name, written in (("picture", out), ("numbers", json_path)):
        if written is not None:
            click.echo(f"{name} {written}")


def choose_splits(features: Features, selection: str) -> list[str]:
    """Names of the splits to score; raises if one does not exist or has an empty side."""
    names = features.split_names if selection == "all" else list(dict.fromkeys(selection.split(",")))
    for name in names:
        if name not in features.split_names:
            raise click.UsageError(
                f"--splits: split {name} does not exist; choose {choices([*features.split_names, 'all'])}"
            )
        if not all(len(features.rows_of(name, subset)) for subset in ("train", "test")):
            raise UserError(f"split {name}: has no training or no test video; choose another with --splits")
    return names


def notes_of(features: Features, scores: dict[str, SplitScores]) -> list[str]:
    """Caveats for the reader of the numbers."""
    notes = []
    for name, split in scores.items():
        if seen := features.num_test_seen(name):
            notes.append(f"split {name}: the network was trained on {seen} of the {len(split.labels)} test videos")
        if not split.converged:
            notes.append(f"split {name}: liblinear stopped before it converged, with C = {split.c:g}")
    if len(features.unreadable):
        notes.append(f"{len(features.unreadable)} videos are left out, for no clip of theirs could be decoded")
    return notes


def summary(features: Features, scores: dict[str, SplitScores], *, layer: str) -> dict[str, Any]:
    """The JSON file; accuracies are 0 to 1."""
    found = [split.accuracy for split in scores.values()]
    return {
        "layer": layer,
        "num_dims": features.layers[layer].shape[1],
        "video_at_1": mean(found),
        "video_at_1_spread": stdev(found) if len(found) > 1 else None,
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
        "features": features.about,
    }


def draw_confusion(path: Path, title: str, *, classes: Sequence[str], confusion: np.ndarray) -> None:
    """Write a PNG of a confusion matrix, normalized by row; without classes that have no videos and no predictions.

    Args:
        confusion: Videos by class (row) and predicted class (column), int64 [K, K].
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


if __name__ == "__main__":
    main()
