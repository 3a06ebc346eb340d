#!/usr/bin/env python3
"""ASLAN, whether two videos show the same action: accuracy and AUC from features, over the official ten folds."""

import sys
from pathlib import Path

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

import click
import numpy as np

from res3d_video.train.evaluation.features import load_features
from res3d_video.train.paper.aslan import LAYERS, cross_validate, describe_pairs, read_pairs, rows_of_samples
from res3d_video.train.terminal import JSON_FILE, QUIET, Command, extra_needed, progress, save_json

EPILOG = """\b
Examples:
  python tools/aslan.py --features runs/s1m/aslan.parquet --pairs data/aslan/View2.mat

\b
The features come from tools/extract_features.py; names of videos must end in their four official digits.
For each layer, a pair has 12 distances, normalized on the training folds; a linear SVM says whether the action is the
same. C3D reaches 78.3 % accuracy in this way (Tran et al. 2015, four layers). Numbers in the JSON file are 0 to 1.
"""


@click.command(cls=Command, context_settings={"max_content_width": 110, "show_default": True}, epilog=EPILOG)
@click.option("--features", required=True, type=click.Path(path_type=Path), help="Folder of features, .parquet.")
@click.option("--pairs", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The official View2.mat.")
@click.option("--layers", default=",".join(LAYERS), help="Layers to use.")
@QUIET
@JSON_FILE
def main(*, features: Path, pairs: Path, layers: str, quiet: bool, json_path: Path | None) -> None:
    """ASLAN, whether two videos show the same action: accuracy and AUC from features, over the official ten folds."""
    chosen = [name for name in layers.split(",") if name]
    if not chosen:
        raise click.UsageError("--layers must name at least one layer, such as res5b,pool5")
    with extra_needed("features"):
        folds = read_pairs(pairs)
        videos = load_features(features, chosen).of_videos()
        rows = rows_of_samples(videos.sources.tolist())
        distances, same, missing = [], [], set[int]()
        with progress("distances", unit="folds", quiet=quiet) as tell:
            for fold in folds:
                known = np.isin(fold.samples, list(rows))  # [P, 2]
                missing |= set(fold.samples[~known].tolist())
                whole = known.all(axis=1)
                members = [[rows[sample] for sample in pair] for pair in fold.samples[whole].tolist()]
                distances.append(describe_pairs(videos.layers, np.array(members, np.int64).reshape(-1, 2)))
                same.append(fold.same[whole])
                tell(len(distances), len(folds))
        with progress("training", unit="folds", quiet=quiet) as tell:
            scores = cross_validate(distances, same, on_fold=tell)
    result: dict = {"features": str(features), "pairs": str(pairs), "layers": chosen}
    for name, values in (("accuracy", [s.accuracy for s in scores]), ("auc", [s.auc for s in scores])):
        error = float(np.std(values, ddof=1) / np.sqrt(len(values)))  # as ASLAN reports it
        result |= {name: float(np.mean(values)), f"{name}_standard_error": error}
        click.echo(f"{name:<8}  {result[name]:.1%} ± {error:.1%}")
    num_left_out = sum(len(fold.same) for fold in folds) - sum(map(len, same))
    result |= {"folds": [s._asdict() for s in scores], "missing": sorted(missing), "num_pairs_left_out": num_left_out}
    click.echo(f"{sum(map(len, same))} pairs in {len(folds)} folds; chance is 50%")
    if missing:
        shown = ", ".join(f"{sample:04}" for sample in result["missing"][:8]) + (", …" if len(missing) > 8 else "")
        click.echo(f"missing   {len(missing)} videos without features ({shown}); {num_left_out} pairs left out")
    if json_path is not None:
        save_json(json_path, result)
        click.echo(f"result    {json_path}")


if __name__ == "__main__":
    main()
