#!/usr/bin/env python3
"""Temporal action detection on THUMOS14: sliding windows, detections from their scores, and the official mAP."""

import os
import sys
from pathlib import Path

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # docs/decisions/0004-threads-that-wait-sleep.md

import click

from res3d_video.tools.extract_features import FEATURES_OUT
from res3d_video.train.data_options import DATA, Data, remote_options
from res3d_video.train.evaluation.features import FeatureFile
from res3d_video.train.paper.thumos14 import (
    AMBIGUOUS,
    CLASS_IDS,
    IOU_THRESHOLDS,
    SCNN_NMS_MARGIN,
    WINDOW_LENGTHS,
    detect,
    evaluate,
    list_windows,
    read_annotations,
    read_detections,
    read_lengths,
    read_scores,
    read_windows,
    scores_from_features,
    window_weights,
    write_detections,
    write_windows,
)
from res3d_video.train.terminal import (
    BATCH,
    COUNT,
    JSON_FILE,
    QUIET,
    THREADS,
    Group,
    Number,
    OutputFile,
    extra_needed,
    progress,
    save_json,
)

EPILOG = """\b
Examples:
  python tools/thumos14.py windows --videos test_lengths.txt --out test_windows.jsonl
  torchrun --nproc-per-node 8 tools/thumos14.py features --checkpoint runs/s1m/latest.pt --data shards/thumos14 \\
      --windows test_windows.jsonl --out test.parquet
  python tools/thumos14.py detect --windows test_windows.jsonl --features test.parquet \\
      --train-windows val_windows.jsonl --train-features val.parquet \\
      --annotations data/thumos14/temporal_annotations_validation --out detections.txt
  python tools/thumos14.py evaluate --detections detections.txt --annotations data/thumos14/temporal_annotations_test
\b
Windows, their clips and the weight of their length are those of S-CNN, which arXiv:1708.05038 runs with Res3D: mAP
40.6, 32.6, 22.5, 12.3, 6.4% at IoU 0.3 to 0.7. S-CNN drops overlapping detections anew for each IoU: for that, give
detect --nms-iou 1 and evaluate --scnn-nms. The evaluation is that of the official kit.
"""

IN_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FEATURES = click.Path(exists=True, path_type=Path)
OUT_FILE = OutputFile()
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
KEEP = 1000  # detections of a class in a video
SHOW = {"max_content_width": 110, "show_default": True}


@click.group(cls=Group, context_settings=SHOW, epilog=EPILOG)
def main() -> None:
    """Temporal action detection on THUMOS14: sliding windows, detections from their scores, and the official mAP."""


@main.command("windows")
@click.option("--videos", required=True, type=IN_FILE, help="Lines 'video frames frames/s'.")
@click.option("--length", "lengths", multiple=True, type=COUNT, default=WINDOW_LENGTHS, help="Frames.")
@click.option("--out", required=True, type=OUT_FILE, help="A JSON object a line: seconds, and the 16 frames to take.")
def windows_command(*, videos: Path, lengths: tuple[int, ...], out: Path) -> None:
    """List the windows of 16 to 512 frames that slide over videos by a quarter, and 16 frames that stand for each."""
    listed = read_lengths(videos)
    windows = list_windows(listed, lengths=lengths)
    write_windows(out, windows)
    click.echo(f"{len(windows)} windows of {len(listed)} videos in {out}")
    short = sorted({video.name for video in listed} - set(windows.videos.tolist()))
    if short:
        click.echo(f"{len(short)} videos are shorter than every window, such as {short[0]}")


@main.command("features", go_on="run the same command again: finished parts are kept")
@click.option("--checkpoint", required=True, type=IN_FILE, help="A .pt file of a run.")
@click.option("--data", required=True, type=DATA, help="Shards of the videos, all frames stored; a folder or a URL.")
@click.option("--windows", required=True, type=IN_FILE, help="Windows of these videos.")
@click.option("--layer", default="pool5", help="Layer to store.")
@click.option("--batch-size", default=16, type=BATCH, help="Clips at a time, of each process.")
@click.option("--num-threads", default=2, type=THREADS, help="Decoding threads a process.")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to run.")
@remote_options
@QUIET
@click.option("--out", required=True, type=FEATURES_OUT, help="Folder to write, .parquet, float16; a row a window.")
def features_command(
    *,
    checkpoint: Path,
    data: Data,
    windows: Path,
    layer: str,
    batch_size: int,
    num_threads: int,
    device: str,
    quiet: bool,
    out: Path,
) -> None:
    """Run a network over the clip of every window; under torchrun on all processes, and on after a kill."""
    from res3d_video.train.checkpoint import load_checkpoint  # these load torch: help does not wait for it
    from res3d_video.train.evaluation.extraction import make_features
    from res3d_video.train.paper.thumos14_features import WindowExtraction
    from res3d_video.train.ranks import from_torchrun

    ranks, listed = from_torchrun(device), read_windows(windows)
    extraction = WindowExtraction(
        load_checkpoint(checkpoint), data.open(), listed, [layer], out=out, device=ranks.device
    )
    made = make_features(extraction, ranks, batch_size=batch_size, num_threads=num_threads, quiet=quiet)
    if not ranks.is_main:
        return
    num_lost = len(FeatureFile(out).unreadable())
    there = "" if made else ", there already, made in the same way"
    click.echo(f"{layer} of {len(listed) - num_lost} windows: {out}{there}")
    if num_lost:
        click.echo(f"note: {num_lost} windows could not be decoded; run tools/check_shards.py")


@main.command("detect")
@click.option("--windows", required=True, type=IN_FILE, help="Windows to score.")
@click.option("--scores", type=IN_FILE, help=".parquet of the windows: key, and a column of scores for each class.")
@click.option("--features", type=FEATURES, help=".parquet of the windows: key, and a list of numbers a layer.")
@click.option("--train-windows", type=IN_FILE, help="Windows of annotated videos, with --features.")
@click.option("--train-features", type=FEATURES, help="Their features.")
@click.option("--annotations", type=FOLDER, help="Lists <Class>_val.txt; scores are weighed by usual durations.")
@click.option("--layer", default="pool5", help="Features of this layer.")
@click.option("--c", default=1.0, type=Number(0, 1e9, min_open=True), help="C of the SVM.")
@click.option("--nms-iou", default=0.4, type=Number(0, 1), help="Drop windows above this; 1 keeps all.")
@QUIET
@click.option("--out", required=True, type=OUT_FILE, help="Detections, in the official format.")
def detect_command(
    *,
    windows: Path,
    scores: Path | None,
    features: Path | None,
    train_windows: Path | None,
    train_features: Path | None,
    annotations: Path | None,
    layer: str,
    c: float,
    nms_iou: float,
    quiet: bool,
    out: Path,
) -> None:
    """Turn scores or features of windows into detections, at most 1,000 of a class in a video."""
    if (scores is None) == (features is None):
        raise click.UsageError("give either --scores or --features")
    with extra_needed("features"):
        listed = read_windows(windows)
        true = read_annotations(annotations, subset="val") if annotations is not None else None
        if scores is not None:
            scored, values, classes = read_scores(scores, listed)
        elif features is None or train_windows is None or train_features is None or true is None:
            raise click.UsageError("--features needs --train-windows, --train-features and --annotations")
        else:
            with progress("training", unit="classes", quiet=quiet) as tell:
                scored, values, classes = scores_from_features(
                    features,
                    listed,
                    train_features=train_features,
                    train_windows=read_windows(train_windows),
                    annotations=true,
                    layer=layer,
                    c=c,
                    on_class=tell,
                )
        weights = window_weights(true, classes, scored) if true is not None else None
        with progress("suppressing", unit="videos", quiet=quiet) as tell:
            found = detect(values, classes, scored, nms_iou=nms_iou, weights=weights, keep=KEEP, on_video=tell)
        write_detections(out, found)
    click.echo(f"{len(found)} detections of {len(set(found.classes))} classes in {len(scored)} windows: {out}")
    if len(scored) < len(listed):
        lost = sorted({*listed.keys} - {*scored.keys})
        click.echo(f"note: nothing for {len(lost)} of {len(listed)} windows, such as {lost[0]}")


@main.command("evaluate")
@click.option("--detections", required=True, type=IN_FILE, help="Lines 'video start end class score', official form.")
@click.option("--annotations", required=True, type=FOLDER, help="Folder of the official lists, <Class>_test.txt.")
@click.option("--subset", default="test", type=click.Choice(["val", "test"]), help="Which lists.")
@click.option("--iou", "ious", multiple=True, type=Number(0, 1), default=IOU_THRESHOLDS, help="Thresholds.")
@click.option("--scnn-nms", is_flag=True, help="Suppress first, at each IoU minus 0.1, as S-CNN does.")
@QUIET
@JSON_FILE
def evaluate_command(
    *,
    detections: Path,
    annotations: Path,
    subset: str,
    ious: tuple[float, ...],
    scnn_nms: bool,
    quiet: bool,
    json_path: Path | None,
) -> None:
    """Average precision of each class and their mean, by the rules of the official kit."""
    true = read_annotations(annotations, subset=subset)
    found, num_skipped = read_detections(detections)
    with progress("evaluating", unit="classes", quiet=quiet) as tell:
        margin = SCNN_NMS_MARGIN if scnn_nms else None
        scores = evaluate(found, true, iou_thresholds=ious, nms_margin=margin, on_class=tell)
    notes = []
    if len(scores.classes) < len(CLASS_IDS):
        notes.append(f"mAP is of {len(scores.classes)} of the {len(CLASS_IDS)} classes: the others have no list")
    if AMBIGUOUS not in true:
        notes.append(f"no {AMBIGUOUS}_{subset}.txt: detections of ambiguous segments count as wrong")
    if num_skipped:
        notes.append(f"{num_skipped} detections are of other classes and skipped")
    if json_path is not None:
        about = {"detections": str(detections), "num_detections": len(found), "num_skipped": num_skipped}
        save_json(json_path, about | {"scnn_nms": scnn_nms, "notes": notes} | scores.summary())
    for line in [*scores.lines(), *(f"note: {note}" for note in notes)]:
        click.echo(line)
    if json_path is not None:
        click.echo(f"result {json_path}")


if __name__ == "__main__":
    main()
