#!/usr/bin/env python3
"""Name the classes of raw videos with a trained checkpoint: of whole videos, or along a long one."""

import csv
import glob
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # docs/decisions/0004-threads-that-wait-sleep.md

import click

from res3d_video.pipeline.datasets.listing import find_videos
from res3d_video.pipeline.errors import VideoFailure
from res3d_video.pipeline.files import write_atomically
from res3d_video.pipeline.ingest.limits import Limits
from res3d_video.pipeline.settings import LoaderSettings
from res3d_video.tools.make_shards import LIMITS
from res3d_video.train.terminal import (
    CLIPS,
    JSON_FILE,
    QUIET,
    THREADS,
    Command,
    Failed,
    Number,
    OutputFile,
    WrongUsage,
    extra_needed,
    field_options,
    progress,
    save_json,
    show_line,
    with_options,
    wrong_usage,
)

if TYPE_CHECKING:
    from res3d_video.train.evaluation.prediction import VideoPrediction

MAX_PLOTTED = 20  # videos below one another
EPILOG = """\b
Examples:
  python tools/predict.py --checkpoint runs/mine/best.pt holiday.mp4
  python tools/predict.py --checkpoint runs/mine/best.pt videos/ 'more/*.avi' --json found.json
  python tools/predict.py --checkpoint runs/mine/best.pt match.mp4 --every 1 --plot match.png --annotate match-seen.mp4

\b
VIDEO is a file, a folder with videos at any depth, or a pattern. Clips, pixels and stored size are those of the
checkpoint; probabilities are averaged over --clips evenly spaced clips, as tools/evaluate.py does. With --every, a clip
is scored about every so many seconds. A video that cannot be read is a line, and the others go on.
--plot and --annotate need Pillow and matplotlib: pip install -e ".[report]".
"""


@click.command(
    cls=Command,
    context_settings={"max_content_width": 110, "show_default": True},
    epilog=EPILOG,
    headings={
        "What is predicted": ["checkpoint", "clips", "every_s"],
        "What is written": ["json_path", "csv_path", "plot", "annotated"],
        "Run": ["device", "workers", "num_threads", "quiet"],
    },
    rare={"Limits of a video": list(LIMITS)},
)
@click.argument("videos", metavar="VIDEO...", nargs=-1, required=True)
@click.option("--checkpoint", required=True, type=click.Path(path_type=Path), help="A .pt file of a run, or imported.")
@click.option("--clips", default=10, type=CLIPS, help="Evenly spaced clips of a video.")
@click.option("--every", "every_s", type=Number(0.01, 3600), help="Seconds from one clip of a timeline to the next.")
@JSON_FILE
@click.option("--csv", "csv_path", type=OutputFile(), help="Write the timelines here, a line for each clip.")
@click.option("--plot", type=OutputFile(".png"), help="Draw the timelines here, of at most 20 videos.")
@click.option("--annotate", "annotated", type=OutputFile(".mp4"), help="Draw the classes on the frames of one VIDEO.")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--workers", type=click.IntRange(1, 1024), show_default="all cores", help="Videos read at once.")
@click.option("--num-threads", default=2, type=THREADS, help="Threads that decode clips.")
@QUIET
@with_options(*field_options(Limits))
def main(
    *,
    videos: Sequence[str],
    checkpoint: Path,
    clips: int,
    every_s: float | None,
    json_path: Path | None,
    csv_path: Path | None,
    plot: Path | None,
    annotated: Path | None,
    device: str,
    workers: int | None,
    num_threads: int,
    quiet: bool,
    **limit_values: Any,
) -> None:
    """Name the classes of raw videos."""
    with wrong_usage():
        limits = Limits(**limit_values)
    paths = list(dict.fromkeys(path for name in videos for path in expand(name, follow_links=limits.follow_links)))
    if every_s is None and (csv_path or plot):
        raise WrongUsage(f"--{'csv' if csv_path else 'plot'} needs a timeline; add --every SECONDS")
    if annotated and len(paths) > 1:
        raise WrongUsage(f"--annotate takes one video, got {len(paths)}")
    if plot and len(paths) > MAX_PLOTTED:
        raise WrongUsage(f"--plot takes at most {MAX_PLOTTED} videos, got {len(paths)}")
    from res3d_video.train.checkpoint import load_model  # these load torch: help does not wait for it
    from res3d_video.train.evaluation.prediction import predict
    from res3d_video.train.ranks import from_torchrun

    if annotated or plot:
        with extra_needed("report"):
            from res3d_video.tools.annotate import annotate, draw_timelines
    model, found, num_failed = load_model(checkpoint, device=from_torchrun(device).device), [], 0
    loader = LoaderSettings(num_threads=num_threads)
    with progress(f"{checkpoint.name}", unit="videos", quiet=quiet) as tell:
        for one in predict(
            model, paths, num_clips=clips, every_s=every_s, limits=limits, workers=workers, loader=loader
        ):
            found.append(one)
            num_failed += bool(one.error)
            tell(len(found), len(paths), failed=num_failed)
    for video in found:
        if video.error:
            show_line(f"failed: {shown(video.path)}: {video.error}")
            continue
        click.echo(f"{shown(video.path)}: " + ", ".join(f"{name} {share:.1%}" for name, share in video.top5().items()))
        for span in video.spans():
            click.echo(f"  {span.start_s:7.1f} s to {span.end_s:7.1f} s  {span.name} {span.probability:.1%}")
    good = [video for video in found if not video.error]
    if json_path:
        save_json(json_path, {"checkpoint": str(checkpoint), "step": model.step, "videos": [plain(v) for v in found]})
    if csv_path:
        write_atomically(csv_path, csv_of(good).encode())
    if not good:
        raise Failed(f"none of {len(found)} videos could be read")
    if plot:
        draw_timelines(plot, good)
    if annotated:
        try:
            annotate(good[0], annotated, limits=limits)
        except VideoFailure as failure:
            raise Failed(f"{good[0].path}: {failure.reason}") from None
    for path in filter(None, (json_path, csv_path, plot, annotated)):
        click.echo(f"wrote {path}")


def expand(name: str, *, follow_links: bool) -> list[Path]:
    """The videos that an argument names; of a folder those that lie in it, unless links may lead out.

    Raises:
        WrongUsage: There is none.
    """
    path = Path(name)
    if path.is_dir():
        tree = find_videos(path)
        for line in tree.warnings:
            show_line(f"left out: {path}: {line}")
        below = [path / video for video in tree.videos]
        found = [one for one in below if follow_links or Path(os.path.realpath(one)).is_relative_to(path.resolve())]
        for one in sorted({*below} - {*found}):
            show_line(f"left out: {one}: a link leads out of {path}; --follow-links allows it")
    elif path.exists():
        found = [path]
    else:
        found = [Path(one) for one in sorted(glob.glob(name, recursive=True)) if not os.path.isdir(one)]
    if not found:
        raise WrongUsage(f"VIDEO: {name}: no video is there; name a file, a folder with videos or a pattern")
    return found


def shown(path: Path) -> str:
    """A path in one line, whatever bytes it has."""
    return " ".join(str(path).encode(errors="backslashreplace").decode().splitlines())


def plain(video: "VideoPrediction") -> dict[str, Any]:
    """A prediction for the JSON file; docs/json.md has its fields."""
    from res3d_video.train.evaluation.prediction import likeliest

    if video.error:
        return {"video": str(video.path), "error": video.error}
    rows = [
        {"start_s": row.start_s, "end_s": row.end_s, "top5": likeliest(video.classes, row.probabilities, 5)}
        for row in video.timeline
    ]
    return {"video": str(video.path), "predicted": next(iter(video.top5())), "top5": video.top5(), "timeline": rows}


def csv_of(videos: Sequence["VideoPrediction"]) -> str:
    """A line for each row of each timeline."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "start_s", "end_s", "class", "probability"])
    for video in videos:
        for row in video.timeline:
            place = int(row.probabilities.argmax())
            times = f"{row.start_s:.3f}", f"{row.end_s:.3f}"
            writer.writerow([str(video.path), *times, video.classes[place], f"{row.probabilities[place]:.4f}"])
    return text.getvalue()


if __name__ == "__main__":
    main()
