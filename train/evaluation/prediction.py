"""Classes of raw videos: made into shards in a temporary folder, then scored as `evaluate` scores shards."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from res3d_video.pipeline.clip import num_starts
from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.convert.samples import UNKNOWN_FPS
from res3d_video.pipeline.datasets.listing import Listing, VideoRecord, is_utf8
from res3d_video.pipeline.errors import VideoFailure
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.ingest.inspector import Inspector
from res3d_video.pipeline.ingest.limits import Guard, Limits
from res3d_video.pipeline.loader import ClipLoader, LoaderSettings
from res3d_video.pipeline.plan import EvalPlan
from res3d_video.pipeline.shard_writer import Parts
from res3d_video.pipeline.typed_json import convert
from res3d_video.train.checkpoint import TrainedModel
from res3d_video.train.evaluation.video_level import videos_of, views_per_sample
from res3d_video.train.step import autocast, probabilities_of

VIDEOS_AT_ONCE = 64  # stored at a time, which bounds the temporary folder
BATCH = 16  # clips, as evaluate.py takes them


class TimelineRow(NamedTuple):
    """What is seen from `start_s` to `end_s` of a video: probabilities float32 [K] of the clip in the middle of it."""

    start_s: float
    end_s: float
    probabilities: np.ndarray


class TimelineSpan(NamedTuple):
    """Rows of a timeline that follow one another and have the same likeliest class, with its mean probability."""

    start_s: float
    end_s: float
    name: str
    probability: float


@dataclass(frozen=True)
class VideoPrediction:
    """What a model makes of one raw video.

    Attributes:
        classes: Names, K.
        probabilities: float32 [K], averaged over the video's clips: softmax, or sigmoid of a network trained with
            "bce". None where it could not be read.
        timeline: In order, without gaps; empty unless asked for.
        error: Why it could not be read, in one line.
    """

    path: Path
    classes: list[str]
    probabilities: np.ndarray | None = None
    timeline: tuple[TimelineRow, ...] = ()
    error: str = ""

    def top5(self) -> dict[str, float]:
        """The five likeliest classes: name -> probability, the likeliest first; none of a video with an error."""
        return {} if self.probabilities is None else likeliest(self.classes, self.probabilities, 5)

    def spans(self) -> list[TimelineSpan]:
        """The timeline in short: each row takes the likeliest class of itself and its two neighbors together, and rows
        of one class are one span."""
        if not self.timeline:
            return []
        rows = np.stack([row.probabilities for row in self.timeline])  # [V, K]
        padded = np.pad(rows, ((1, 1), (0, 0)), "edge")
        places = (padded[:-2] + padded[1:-1] + padded[2:]).argmax(axis=1)  # [V]
        firsts = np.flatnonzero(np.diff(places, prepend=-1)).tolist()
        return [
            TimelineSpan(
                self.timeline[first].start_s,
                self.timeline[end - 1].end_s,
                self.classes[places[first]],
                float(rows[first:end, places[first]].mean()),
            )
            for first, end in zip(firsts, [*firsts[1:], len(rows)], strict=True)
        ]


def likeliest(classes: Sequence[str], probabilities: np.ndarray, k: int) -> dict[str, float]:
    """The `k` likeliest classes, the likeliest first; of equals the lower number first.

    >>> likeliest(["a", "b", "c"], np.array([0.25, 0.25, 0.5]), 2)
    {'c': 0.5, 'a': 0.25}
    """
    order = np.argsort(-probabilities, kind="stable")[:k]
    return {classes[n]: float(probabilities[n]) for n in order}


def predict(
    model: TrainedModel,
    videos: Sequence[Path],
    *,
    num_clips: int = 10,
    every_s: float | None = None,
    limits: Limits | None = None,
    workers: int | None = None,
    loader: LoaderSettings | None = None,
) -> Iterator[VideoPrediction]:
    """The classes of raw videos, in their order; one that cannot be read is a prediction with an `error`.

    A video is stored as the shards were that the model was trained on, and its clips' probabilities are averaged as
    `evaluate` does. Programs that read it are held to `limits`, each in a process of its own. Links are followed.

    Args:
        num_clips: Evenly spaced clips of a video.
        every_s: Take a clip about every so many seconds instead, and give `timeline` too.
        workers: Videos that are read at once; None is one a core.

    Raises:
        UserError: There is no room for the temporary folder, or a setting is out of range.
    """
    settings = settings_of(model)
    if every_s is not None:
        settings = replace(settings, segment_s=None)
    for first in range(0, len(videos), VIDEOS_AT_ONCE):
        paths = list(videos[first : first + VIDEOS_AT_ONCE])
        with tempfile.TemporaryDirectory(prefix="predict-") as folder:
            listing = listing_of(paths, model.classes)
            build_shards(
                listing, Path(folder), settings, workers=workers or len(os.sched_getaffinity(0)), limits=limits
            )
            errors = quarantined(Path(folder))
            found: dict[str, VideoPrediction] = {}
            if len(errors) < len(listing.records):
                index = open_index(Path(folder))
                edges_s = frame_edges(index, limits) if every_s is not None else None
                found = score_videos(model, index, num_clips=num_clips, every_s=every_s, edges_s=edges_s, loader=loader)
        for path in paths:
            source = source_of(path)
            other = "no clip of it could be decoded" if is_utf8(source) else "the name is not UTF-8; rename it"
            error = errors.get(source, other).removeprefix(f"{path.name}: ")
            yield replace(found.get(source, VideoPrediction(path, model.classes, error=error)), path=path)


def settings_of(model: TrainedModel) -> BuildSettings:
    """How the shards were made that a model was trained on.

    Of imported weights nobody knows: pictures are stretched to 4:3 then, as in the paper.
    """
    own = {name: value for name, value in model.shards.items() if name not in ("samples_per_shard", "seed")}
    if not own:
        clip = model.clip
        own = {"size": clip.resize or max(128, -(-clip.crop_size * 8 // 7))}
    return convert(own | {"samples_per_shard": VIDEOS_AT_ONCE}, BuildSettings)


def listing_of(paths: Sequence[Path], classes: list[str]) -> Listing:
    """Videos as a dataset whose labels mean nothing; without those whose names JSON cannot hold."""
    root, names = Path("/"), sorted(filter(is_utf8, {*map(source_of, paths)}))
    records = [VideoRecord(root, name, classes[0], 0, "", ("test",)) for name in names]
    return Listing("videos", classes, ["1"], records, missing=[], warnings=[])


def source_of(path: Path) -> str:
    """A video's name in the temporary shards: its path below the root, so that links may lead anywhere."""
    return os.path.abspath(path).lstrip("/")


def quarantined(folder: Path) -> dict[str, str]:
    """Source of each video that could not be stored -> why."""
    lines = (folder / "quarantine.jsonl").read_bytes().splitlines()
    return {line["source"]: line["reason"] for line in map(json.loads, lines)}


def score_videos(
    model: TrainedModel,
    index: ShardIndex,
    *,
    num_clips: int,
    every_s: float | None,
    edges_s: Sequence[np.ndarray] | None,
    loader: LoaderSettings | None,
) -> dict[str, VideoPrediction]:
    """Source -> prediction of the videos of temporary shards; those without a clip that decodes are left out.

    Args:
        edges_s: `frame_edges`, if `every_s` is given.
    """
    samples = np.arange(index.num_samples)
    video_of = videos_of(index, samples)
    num_views = np.full(len(samples), views_per_sample(video_of, num_clips=num_clips))
    if every_s is not None and edges_s is not None:
        stored_spec = EvalPlan(index, samples, model.clip, global_batch_size=1).stored_spec
        last = (num_starts(stored_spec, video_frames=index.num_frames) - 1) * index.frame_step  # first frame of a clip
        rates = np.array([(len(edges) - 1) / edges[-1] for edges in edges_s])
        num_views = np.round(last / rates / every_s).astype(int) + 1
    clips: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for views in np.unique(num_views):
        rows = samples[num_views == views]
        plan = EvalPlan(index, rows, model.clip, global_batch_size=BATCH, num_views=int(views))
        clips |= zip(
            rows.tolist(), zip(*clip_probabilities(model, index, plan, loader=loader), strict=True), strict=True
        )
    found: dict[str, VideoPrediction] = {}
    for video in range(video_of.max() + 1):
        rows = samples[video_of == video]
        probabilities = np.concatenate([clips[row][0] for row in rows])  # [V, K]
        decoded = ~np.isnan(probabilities[:, 0])
        if not decoded.any():
            continue
        first, timeline = rows[0], tuple[TimelineRow, ...]()
        if edges_s is not None:  # then a video is one sample
            edges = edges_s[first]
            centers_s = np.interp(clips[first][1] + model.clip.span / 2, np.arange(len(edges)), edges)
            timeline = timeline_of(centers_s[decoded], probabilities[decoded], duration_s=float(edges[-1]))
        source = index.source(first)
        found[source] = VideoPrediction(Path(source), model.classes, probabilities[decoded].mean(axis=0), timeline)
    return found


def clip_probabilities(
    model: TrainedModel, index: ShardIndex, plan: EvalPlan, *, loader: LoaderSettings | None
) -> tuple[np.ndarray, np.ndarray]:
    """Softmax and first source frames of all clips of a plan: float32 [S, V, K] and int64 [S, V].

    The probabilities of a clip that does not decode are NaN.
    """
    parts: list[np.ndarray] = []
    starts: list[np.ndarray] = []
    clips = ClipLoader(index, plan, device=model.device, settings=loader, mean=model.mean, std=model.std)
    with clips, torch.no_grad():
        for batch in clips:
            with autocast(model.device):
                logits = model.network(batch.clips)  # [N, K]
            probabilities = probabilities_of(logits, loss=model.loss)
            probabilities[batch.weights == 0] = torch.nan
            parts.append(probabilities.cpu().numpy())  # sync
            starts.append(batch.starts)
    shape = (-1, plan.num_views)
    all_parts, all_starts = (np.concatenate(part)[: plan.num_clips] for part in (parts, starts))  # without padding
    return all_parts.reshape(*shape, len(model.classes)), all_starts.reshape(shape)


def frame_edges(index: ShardIndex, limits: Limits | None) -> list[np.ndarray]:
    """When each frame of each video begins, seconds from the first, and when the last one ends: float64 [F + 1].

    They are evenly spaced where frames were stored at another rate, or where the container does not tell.
    """
    found, parts = [], Parts(index.data_dir, [Path(tar).stem for tar in index.tars])
    with Inspector(limits) as inspector:
        for sample in (sample for part in parts for sample in part["samples"]):
            fps, num_frames, timeline = sample["fps"] or UNKNOWN_FPS, sample["num_frames"], None
            if index.info["settings"]["fps"] is None:
                with contextlib.suppress(VideoFailure):
                    timeline = inspector.timeline(Path("/", sample["source"]), Guard(limits))
            edges_s = np.arange(num_frames + 1) / fps
            if timeline is not None and timeline.num_frames == num_frames:
                edges_s[:-1] = timeline.times_s
                edges_s[-1] = edges_s[-2] + 1 / fps
            found.append(edges_s)
    return found


def timeline_of(centers_s: np.ndarray, probabilities: np.ndarray, *, duration_s: float) -> tuple[TimelineRow, ...]:
    """Rows that meet half-way between the centers of clips [V] with probabilities [V, K].

    >>> [(row.start_s, row.end_s) for row in timeline_of(np.array([1.0, 2.0]), np.eye(2), duration_s=3.5)]
    [(0.0, 1.5), (1.5, 3.5)]
    """
    edges = [0.0, *((centers_s[1:] + centers_s[:-1]) / 2).tolist(), duration_s]
    return tuple(TimelineRow(*row) for row in zip(edges[:-1], edges[1:], probabilities, strict=True))
