#!/usr/bin/env python3
"""Same action or not: ASLAN accuracy and AUC from features, over the official ten folds."""

import sys
from pathlib import Path

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

import click
import numpy as np

from res3d_video.train.evaluation.features import read_rows
from res3d_video.train.paper.aslan import (
    LAYERS,
    FoldScore,
    Pairs,
    cross_validate,
    describe_pairs,
    mean_and_error,
    read_pairs,
    rows_of_samples,
    score_fold,
    without_missing,
)
from res3d_video.train.terminal import JSON_FILE, QUIET, Command, Number, extra_needed, progress, save_json

EPILOG = """\b
Examples:
  python tools/aslan.py --features runs/s1m/aslan.parquet --pairs data/aslan/View2.mat
  python tools/aslan.py --features runs/s1m/aslan.parquet --pairs test_pairs.mat --train-pairs train_pairs.mat  # View 1
\b
Features are those of tools/extract_features.py, a row a video; a video's name ends in its four official digits.
Of each layer a pair gets the 12 distances of the benchmark, z-normalised on the training folds; a linear SVM says
same or not. C3D reaches 78.3% accuracy so (Tran et al. 2015, with four layers). Numbers in the JSON file are 0 to 1.
"""


@click.command(cls=Command, context_settings={"max_content_width": 110, "show_default": True}, epilog=EPILOG)
@click.option("--features", required=True, type=click.Path(path_type=Path), help=".parquet.")
@click.option("--pairs", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Official .mat file.")
@click.option("--train-pairs", type=click.Path(dir_okay=False, path_type=Path), help="Train on these, test on --pairs.")
@click.option("--layers", default=",".join(LAYERS), help="Layers to use.")
@click.option("--c", default=1.0, type=Number(0, 1e9, min_open=True), help="C of the SVM; the papers state none.")
@QUIET
@JSON_FILE
def main(
    *,
    features: Path,
    pairs: Path,
    train_pairs: Path | None,
    layers: str,
    c: float,
    quiet: bool,
    json_path: Path | None,
) -> None:
    """Same action or not: ASLAN accuracy and AUC from features, over the official ten folds."""
    chosen = [name for name in layers.split(",") if name]
    if not chosen:
        raise click.UsageError("--layers: none is named; choose some, such as res5b,pool5")
    with extra_needed("features"):
        folds = [*(read_pairs(train_pairs) if train_pairs else []), *read_pairs(pairs)]
        if len(folds) != 2 and (train_pairs or len(folds) < 2):
            raise click.UsageError(f"{len(folds)} folds: give View2.mat alone, or one matrix of View 1 to each option")
        names, values = read_rows(features, layers=chosen, names=("source", "key"))
        rows = rows_of_samples(names)
        missing = set[int]().union(*(without_missing(fold, rows)[1] for fold in folds))
        usable = [without_missing(fold, rows)[0] for fold in folds]
        scores = score(usable, rows, values, c=c, view_1=train_pairs is not None, quiet=quiet)
    num_left_out = sum(map(len, folds)) - sum(map(len, usable))
    if json_path is not None:
        about = {"features": str(features), "pairs": str(pairs), "layers": chosen, "c": c}
        left_out = {"missing": sorted(missing), "num_pairs_left_out": num_left_out}
        save_json(json_path, about | summary(scores) | left_out)
    for line in report(scores, layers=chosen, missing=sorted(missing), num_left_out=num_left_out):
        click.echo(line)
    if json_path is not None:
        click.echo(f"result    {json_path}")


def score(
    folds: list[Pairs], rows: dict[int, int], features: dict[str, np.ndarray], *, c: float, view_1: bool, quiet: bool
) -> list[FoldScore]:
    """Distances of every pair, then a score a fold; View 1 trains on the first and tests on the second."""
    distances = []
    with progress("distances", unit="folds", quiet=quiet) as tell:
        for done, fold in enumerate(folds, start=1):
            members = np.array([[rows[sample] for sample in pair] for pair in fold.samples.tolist()], np.int64)
            distances.append(describe_pairs(features, members.reshape(-1, 2)))
            tell(done, len(folds))
    same = [fold.same for fold in folds]
    if view_1:
        return [score_fold(distances[0], same[0], distances[1], same[1], c=c)]
    with progress("training", unit="folds", quiet=quiet) as tell:
        return cross_validate(distances, same, c=c, on_fold=tell)


def report(scores: list[FoldScore], *, layers: list[str], missing: list[int], num_left_out: int) -> list[str]:
    """Accuracy and AUC, aligned, and what could not be scored."""
    lines = []
    for name, values in (("accuracy", [s.accuracy for s in scores]), ("AUC", [s.auc for s in scores])):
        mean, error = mean_and_error(values)
        spread = f" ± {error:.1%}" if len(values) > 1 else ""
        lines.append(f"{name:<8}  {mean:.1%}{spread}")
    num_pairs = sum(s.num_pairs for s in scores)
    lines[0] += f"   {num_pairs} pairs in {len(scores)} folds; chance is 50%"
    lines[1] += f"   layers {', '.join(layers)}"
    if missing:
        shown = ", ".join(f"{sample:04}" for sample in missing[:8]) + (", …" if len(missing) > 8 else "")
        lines.append(f"missing   {len(missing)} videos without features ({shown}); {num_left_out} pairs left out")
    return lines


def summary(scores: list[FoldScore]) -> dict:
    """Means, standard errors (null for one fold) and every fold."""
    result: dict = {}
    for name, values in (("accuracy", [s.accuracy for s in scores]), ("auc", [s.auc for s in scores])):
        mean, error = mean_and_error(values)
        result |= {name: mean, f"{name}_standard_error": error if len(values) > 1 else None}
    return result | {"folds": [vars(s) for s in scores]}


if __name__ == "__main__":
    main()
