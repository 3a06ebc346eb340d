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
from res3d_video.train.evaluation.features import load_features
from res3d_video.train.paper.thumos14 import (
    AMBIGUOUS,
    CLASS_IDS,
    detect,
    evaluate,
    list_windows,
    read_annotations,
    read_detections,
    read_lengths,
    read_window_features,
    train_detector,
    write_detections,
)
from res3d_video.train.terminal import (
    BATCH,
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
  torchrun --nproc-per-node 8 tools/thumos14.py features --checkpoint runs/s1m/latest.pt --data shards/thumos14-test \\
      --videos test_lengths.txt --out test.parquet
  python tools/thumos14.py detect --videos test_lengths.txt --features test.parquet \\
      --train-videos val_lengths.txt --train-features val.parquet \\
      --annotations data/thumos14/temporal_annotations_validation --out detections.txt
  python tools/thumos14.py evaluate --detections detections.txt --annotations data/thumos14/temporal_annotations_test

\b
Windows of 16 to 512 frames slide over each video by a quarter of their length; the network sees 16 frames of each. As
S-CNN does, detections are weighted by the length of their window. arXiv:1708.05038 runs S-CNN with Res3D: mAP 40.6,
32.6, 22.5, 12.3, 6.4 % at IoU 0.3 to 0.7. S-CNN suppresses overlapping detections for each IoU of the evaluation:
use detect --nms-iou 1 and evaluate --scnn-nms for that. The evaluation follows the official kit.
"""

IN_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FEATURES = click.Path(exists=True, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
LAYER = click.option("--layer", default="pool5", help="Layer of the network whose features are used.")


@click.group(cls=Group, context_settings={"max_content_width": 110, "show_default": True}, epilog=EPILOG)
def main() -> None:
    """Temporal action detection on THUMOS14: sliding windows, detections from their scores, and the official mAP."""


@main.command("features", go_on="run the same command again: finished parts are kept")
@click.option("--checkpoint", required=True, type=IN_FILE, help="A .pt file of a run.")
@click.option("--data", required=True, type=DATA, help="Shards of the videos with all frames: a folder or a URL.")
@click.option("--videos", required=True, type=IN_FILE, help="List of lines 'video frames frames/s'.")
@LAYER
@click.option("--batch-size", default=16, type=BATCH, help="Clips at a time, per process.")
@click.option("--num-threads", default=2, type=THREADS, help="Decoding threads per process.")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to run.")
@remote_options
@QUIET
@click.option("--out", required=True, type=FEATURES_OUT, help="Folder to write, .parquet; a row per window.")
def features_command(
    *,
    checkpoint: Path,
    data: Data,
    videos: Path,
    layer: str,
    batch_size: int,
    num_threads: int,
    device: str,
    quiet: bool,
    out: Path,
) -> None:
    """Run a network on the clip of every window; under torchrun in all processes. A killed run can be continued."""
    from res3d_video.train.checkpoint import load_checkpoint  # torch is slow to import: --help does not wait for it
    from res3d_video.train.paper.thumos14_features import WindowExtraction
    from res3d_video.train.ranks import from_torchrun

    ranks, windows = from_torchrun(device), list_windows(read_lengths(videos))
    extraction = WindowExtraction(
        load_checkpoint(checkpoint), data.open(), windows, [layer], out=out, device=ranks.device
    )
    made = extraction.make(ranks, batch_size=batch_size, num_threads=num_threads, quiet=quiet)
    if not ranks.is_main:
        return
    num_lost = len(load_features(out, []).unreadable)
    there = "" if made else ", there already, made in the same way"
    click.echo(f"{layer} of {len(windows) - num_lost} windows: {out}{there}")
    if num_lost:
        click.echo(f"note: {num_lost} windows could not be decoded; run tools/check_shards.py")


@main.command("detect")
@click.option("--videos", required=True, type=IN_FILE, help="List of lines 'video frames frames/s'.")
@click.option("--features", required=True, type=FEATURES, help="Features of the windows of these videos.")
@click.option("--train-videos", required=True, type=IN_FILE, help="The same list for the training videos.")
@click.option("--train-features", required=True, type=FEATURES, help="Features of the windows of the training videos.")
@click.option("--annotations", required=True, type=FOLDER, help="Folder of the training videos' <Class>_val.txt.")
@LAYER
@click.option("--c", default=1.0, type=Number(0, 1e9, min_open=True), help="C of the SVM.")
@click.option(
    "--nms-iou", default=0.4, type=Number(0, 1), help="IoU above which the worse window is dropped; 1 keeps all."
)
@QUIET
@click.option("--out", required=True, type=OutputFile(), help="Detections, in the official format.")
def detect_command(
    *,
    videos: Path,
    features: Path,
    train_videos: Path,
    train_features: Path,
    annotations: Path,
    layer: str,
    c: float,
    nms_iou: float,
    quiet: bool,
    out: Path,
) -> None:
    """Turn features of windows into detections, at most 1,000 per class and video."""
    with extra_needed("features"):
        true = read_annotations(annotations, subset="val")
        known, values = read_window_features(train_features, list_windows(read_lengths(train_videos)), layer=layer)
        with progress("training", unit="classes", quiet=quiet) as tell:
            detector = train_detector(values, known, true, c=c, on_class=tell)
        listed = list_windows(read_lengths(videos))
        windows, values = read_window_features(features, listed, layer=layer)
        with progress("suppressing", unit="videos", quiet=quiet) as tell:
            found = detect(detector, values, windows, true, nms_iou=nms_iou, on_video=tell)
    write_detections(out, found)
    click.echo(f"{len(found)} detections of {len(detector)} classes in {len(windows)} windows: {out}")
    if len(windows) < len(listed):
        lost = sorted({*listed.keys} - {*windows.keys})
        click.echo(f"note: nothing for {len(lost)} of {len(listed)} windows, such as {lost[0]}")


@main.command("evaluate")
@click.option("--detections", required=True, type=IN_FILE, help="List of lines 'video start end class score'.")
@click.option("--annotations", required=True, type=FOLDER, help="Folder of the official lists, <Class>_test.txt.")
@click.option("--scnn-nms", is_flag=True, help="First suppress overlaps, at each IoU minus 0.1, as S-CNN does.")
@QUIET
@JSON_FILE
def evaluate_command(
    *, detections: Path, annotations: Path, scnn_nms: bool, quiet: bool, json_path: Path | None
) -> None:
    """Average precision per class and their mean, by the rules of the official kit."""
    true = read_annotations(annotations, subset="test")
    found, num_skipped = read_detections(detections)
    with progress("evaluating", unit="classes", quiet=quiet) as tell:
        scores = evaluate(found, true, scnn_nms=scnn_nms, on_class=tell)
    notes = []
    if len(scores.classes) < len(CLASS_IDS):
        notes.append(f"mAP is of {len(scores.classes)} of the {len(CLASS_IDS)} classes: the others have no list")
    if AMBIGUOUS not in true:
        notes.append(f"no {AMBIGUOUS}_test.txt: detections of ambiguous segments count as wrong")
    if num_skipped:
        notes.append(f"{num_skipped} detections are of other classes and skipped")
    for line in [*scores.lines(), *(f"note: {note}" for note in notes)]:
        click.echo(line)
    if json_path is not None:
        about = {"detections": str(detections), "num_detections": len(found), "num_skipped": num_skipped}
        save_json(json_path, about | {"scnn_nms": scnn_nms, "notes": notes} | scores.summary())
        click.echo(f"result {json_path}")


if __name__ == "__main__":
    main()
