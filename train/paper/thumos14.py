"""THUMOS14 temporal detection: sliding windows, detections from their scores, mAP by the rules of the official kit.

The windows, the weight of a window by its length and the suppression by class are those of S-CNN (Shou et al. 2016),
which arXiv:1708.05038 takes over. S-CNN trains three networks; here a linear SVM on the features of each window takes
the place of the last two, as it does for whole videos.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

import numpy as np
from msgspec import Meta

from res3d_video.pipeline.clip import ClipSpec, frame_indices
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.files import read_text
from res3d_video.pipeline.typed_json import SchemaError, decode
from res3d_video.train.evaluation.features import FeatureFile, l2_normalised, read_rows
from res3d_video.train.terminal import text_table

WINDOW_LENGTHS = (16, 32, 64, 128, 256, 512)  # frames
WINDOW_OVERLAP = 0.75  # of two neighbours of one length
WINDOW_CLIP = 16  # frames of a window that the network sees
POSITIVE_IOU = 0.5  # a window with this much of an action is an example of it
NEGATIVE_IOU = 0.3  # one with less is background; those between are not trained on
NEGATIVES_PER_POSITIVE = 20
SCNN_NMS_MARGIN = 0.1  # S-CNN suppresses at the IoU of the evaluation minus this
IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)

# The 20 detection classes and their numbers in a detections file, which are those of UCF101 (detclasslist.txt).
CLASS_IDS = {
    "BaseballPitch": 7, "BasketballDunk": 9, "Billiards": 12, "CleanAndJerk": 21, "CliffDiving": 22,
    "CricketBowling": 23, "CricketShot": 24, "Diving": 26, "FrisbeeCatch": 31, "GolfSwing": 33,
    "HammerThrow": 36, "HighJump": 40, "JavelinThrow": 45, "LongJump": 51, "PoleVault": 68,
    "Shotput": 79, "SoccerPenalty": 85, "TennisSwing": 92, "ThrowDiscus": 93, "VolleyballSpiking": 97,
}  # fmt: skip
CLASS_NAMES = {number: name for name, number in CLASS_IDS.items()}
AMBIGUOUS, BACKGROUND = "Ambiguous", "Background"
MAX_NUMBER = 1e9  # of seconds and scores
MAX_FRAMES = 10**7  # of a video; four days
MIN_FPS, MAX_FPS = 0.001, 1000.0


@dataclass(frozen=True)
class Segments:
    """N stretches of videos, true or detected.

    Attributes:
        videos: Names, without a suffix, str [N].
        times: Rows (start, end) with start <= end, seconds, float64 [N, 2].
        classes: Names, str [N].
        scores: Of detections, higher is surer, float64 [N]; 1 for annotations.
    """

    videos: np.ndarray
    times: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.videos)

    def take(self, rows: np.ndarray) -> "Segments":
        """Some of them: rows or a mask."""
        return Segments(self.videos[rows], self.times[rows], self.classes[rows], self.scores[rows])

    @staticmethod
    def of(rows: list[tuple[str, float, float, str, float]]) -> "Segments":
        """From (video, start, end, class, score); like the official kit, whatever comes first is the start."""
        videos, starts, ends, classes, scores = zip(*rows, strict=True) if rows else ((), (), (), (), ())
        times = np.sort(np.stack([np.array(starts, np.float64), np.array(ends, np.float64)], axis=1), axis=1)  # [N, 2]
        return Segments(np.array(videos, str), times, np.array(classes, str), np.array(scores, np.float64))


@dataclass(frozen=True)
class WindowList:
    """W windows of some videos.

    Attributes:
        videos: Names, str [W].
        frames: Rows (first frame, frame after the last), 0-based, int64 [W, 2].
        fps: Of the window's video, frames/s, float64 [W].
    """

    videos: np.ndarray
    frames: np.ndarray
    fps: np.ndarray

    def __len__(self) -> int:
        return len(self.videos)

    def take(self, rows: np.ndarray) -> "WindowList":
        """Some of them: rows or a mask."""
        return WindowList(self.videos[rows], self.frames[rows], self.fps[rows])

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each window, int64 [W]."""
        return self.frames[:, 1] - self.frames[:, 0]

    @property
    def times(self) -> np.ndarray:
        """Rows (start, end), seconds, float64 [W, 2]; S-CNN counts frames from 1 and so starts one frame later."""
        return self.frames / self.fps[:, None]

    @property
    def keys(self) -> list[str]:
        """Unique names, such as video_test_0000179/000016-000032: first frame, and the frame after the last."""
        return [f"{video}/{start:06}-{end:06}" for video, (start, end) in zip(self.videos, self.frames, strict=True)]


class VideoLength(NamedTuple):
    """A video's name, number of frames and frames/s."""

    name: str
    num_frames: int
    fps: float


def temporal_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Length of the intersection over length of the union, of every pair of rows (start, end), [N, 2] and [M, 2].

    Returns:
        float64 [N, M], 0…1; 0 for segments that only touch and for those without length.

    >>> temporal_iou(np.array([[0, 4]]), np.array([[2, 6], [4, 8], [0, 4]])).round(3)
    array([[0.333, 0.   , 1.   ]])
    """
    first, second = (np.asarray(rows, np.float64).reshape(-1, 2) for rows in (first, second))
    starts = np.maximum(first[:, None, 0], second[None, :, 0])  # [N, M]
    ends = np.minimum(first[:, None, 1], second[None, :, 1])
    intersection = np.maximum(ends - starts, 0)
    # The stretch from the first start to the last end is the union wherever the two overlap.
    hull = np.maximum(first[:, None, 1], second[None, :, 1]) - np.minimum(first[:, None, 0], second[None, :, 0])
    return np.divide(intersection, hull, out=np.zeros_like(hull), where=intersection > 0)


def non_max_suppression(
    segments: np.ndarray, scores: np.ndarray, *, iou_threshold: float, keep: int | None = None
) -> np.ndarray:
    """Rows that are kept, best first, int64 [M]: the best segment, then the best of those that do not overlap it, …

    Args:
        segments: Rows (start, end), [N, 2].
        scores: Higher is better, [N]; of equals the earlier row is the better.
        iou_threshold: A segment is dropped if its IoU with a kept one is above this.
        keep: Stop at so many.

    >>> non_max_suppression(np.array([[0, 4], [1, 5], [6, 9]]), np.array([0.5, 0.9, 0.1]), iou_threshold=0.4)
    array([1, 2])
    """
    rest = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    if iou_threshold >= 1:  # nothing overlaps more
        return rest[:keep]
    starts, ends = np.asarray(segments, np.float64).reshape(-1, 2)[rest].T
    kept: list[int] = []
    while len(rest) and (keep is None or len(kept) < keep):
        kept.append(int(rest[0]))
        # temporal_iou of the first with the rest, in a third of its time: windows come by the hundred thousand.
        both = np.minimum(ends[1:], ends[0]) - np.maximum(starts[1:], starts[0])  # negative where apart
        hull = np.maximum(ends[1:], ends[0]) - np.minimum(starts[1:], starts[0])
        with np.errstate(invalid="ignore"):  # 0 / 0 of segments without length is not above anything
            stays = ~(both / hull > iou_threshold)
        rest, starts, ends = rest[1:][stays], starts[1:][stays], ends[1:][stays]
    return np.array(kept, np.int64)


def rows_by_name(names: np.ndarray) -> dict[str, np.ndarray]:
    """Where each name stands: name -> int64 rows, ascending; names in order.

    >>> rows_by_name(np.array(["b", "a", "b"]))
    {'a': array([1]), 'b': array([0, 2])}
    """
    if not len(names):
        return {}
    order = np.argsort(names, kind="stable")
    found, first = np.unique(names[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, first[1:]), strict=True))


def suppress(
    found: Segments,
    *,
    iou_threshold: float,
    keep: int | None = None,
    on_video: Callable[[int, int], None] = lambda *_: None,
) -> Segments:
    """Non-maximum suppression in each class of each video.

    Args:
        keep: Of a class in a video, at most; the best.
        on_video: Told (videos done, videos in all).
    """
    kept, videos = [np.zeros(0, np.int64)], rows_by_name(found.videos)
    for done, of_video in enumerate(videos.values(), start=1):
        for which in rows_by_name(found.classes[of_video]).values():
            rows = of_video[which]
            times, scores = found.times[rows], found.scores[rows]
            kept.append(rows[non_max_suppression(times, scores, iou_threshold=iou_threshold, keep=keep)])
        on_video(done, len(videos))
    return found.take(np.concatenate(kept))


def parse_lines(path: Path, form: str) -> list[tuple[int, str, list[float]]]:
    """Of each line that is not empty: its number, the first word without a video suffix, and the numbers after it.

    Args:
        form: As many words as a line has.

    Raises:
        UserError: A line has another form.
    """
    found = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            name, *words = line.split()
            try:
                values = [float(word) for word in words]
                if len(values) != len(form.split()) - 1 or not (np.abs(values) <= MAX_NUMBER).all():
                    raise ValueError
            except ValueError:
                raise UserError(f"{path}, line {number}: {line.strip()!r:.200} is not of the form '{form}'") from None
            found.append((number, name.removesuffix(".mp4").removesuffix(".mpeg"), values))
    return found


def read_lengths(path: Path) -> list[VideoLength]:
    """Lines 'video frames frames/s', such as 'video_test_0000004 1012 30'.

    Raises:
        UserError: A line has another form, or a video comes twice.
    """
    videos: dict[str, VideoLength] = {}
    for number, name, (num_frames, fps) in parse_lines(path, "video frames frames/s"):
        if num_frames % 1 or not 0 <= num_frames <= MAX_FRAMES or not MIN_FPS <= fps <= MAX_FPS:
            line = f"{name} {num_frames:g} {fps:g}"
            raise UserError(f"{path}, line {number}: {line!r:.200} is not of the form 'video frames frames/s'")
        if name in videos:
            raise UserError(f"{path}, line {number}: {name} is there twice; keep one of the lines")
        videos[name] = VideoLength(name, int(num_frames), fps)
    return list(videos.values())


def windows_of(
    num_frames: int, *, lengths: tuple[int, ...] = WINDOW_LENGTHS, overlap: float = WINDOW_OVERLAP
) -> np.ndarray:
    """Windows of every length that fit into a video, as in S-CNN: the frames after the last whole one are left out.

    Args:
        lengths: Frames of a window.
        overlap: Share of a window that the next one of its length repeats, 0 up to but not 1.

    Returns:
        int64 [W, 2], rows (first frame, frame after the last), by length and then by start.

    >>> windows_of(24, lengths=(16, 24), overlap=0.75).tolist()
    [[0, 16], [4, 20], [8, 24], [0, 24]]
    """
    if not 0 <= overlap < 1:
        raise UserError(f"overlap must be >= 0 and < 1, got {overlap}")
    windows = [np.zeros((0, 2), np.int64)]
    for length in lengths:
        if length < 1:
            raise UserError(f"a window must have at least 1 frame, got {length}")
        starts = np.arange(0, num_frames - length + 1, max(1, round(length * (1 - overlap))), dtype=np.int64)
        windows.append(np.stack([starts, starts + length], axis=1))  # [w, 2]
    return np.concatenate(windows)


def frames_of_window(start: int, end: int) -> np.ndarray:
    """Frame numbers of the clip that stands for a window [start, end): the first frame of each 16th, int64 [16].

    Raises:
        UserError: The window's length is not a multiple of 16.

    >>> frames_of_window(8, 40).tolist()
    [8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38]
    """
    if end <= start or (end - start) % WINDOW_CLIP:
        raise UserError(f"window {start}…{end}: {end - start} frames; choose a multiple of {WINDOW_CLIP}")
    spec = ClipSpec(num_frames=WINDOW_CLIP, frame_stride=(end - start) // WINDOW_CLIP)
    return frame_indices(start, spec, video_frames=end)


def list_windows(
    videos: list[VideoLength], *, lengths: tuple[int, ...] = WINDOW_LENGTHS, overlap: float = WINDOW_OVERLAP
) -> WindowList:
    """The sliding windows of some videos, video after video; raises UserError where `windows_of` or a clip cannot."""
    for length in lengths:
        frames_of_window(0, length)  # refuses it here rather than after minutes
    frames = [windows_of(video.num_frames, lengths=lengths, overlap=overlap) for video in videos]
    counts = [len(rows) for rows in frames]
    return WindowList(
        videos=np.repeat(np.array([video.name for video in videos], str), counts),
        frames=np.concatenate([np.zeros((0, 2), np.int64), *frames]),
        fps=np.repeat(np.array([video.fps for video in videos], np.float64), counts),
    )


class Window(TypedDict):
    """What is read of a line of a window file."""

    video: Annotated[str, Meta(min_length=1, max_length=1000)]
    start_frame: Annotated[int, Meta(ge=0, le=MAX_FRAMES)]
    end_frame: Annotated[int, Meta(ge=1, le=MAX_FRAMES)]
    fps: Annotated[float, Meta(ge=MIN_FPS, le=MAX_FPS)]


def write_windows(path: Path, windows: WindowList) -> None:
    """A JSON object a line: key, video, frames/s, first frame, frame after the last, seconds, frames of the clip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for key, video, (start, end), times, fps in zip(
            windows.keys, windows.videos, windows.frames.tolist(), windows.times.tolist(), windows.fps, strict=True
        ):
            window = {"key": key, "video": str(video), "fps": float(fps), "start_frame": start, "end_frame": end}
            window |= {"start_s": round(times[0], 3), "end_s": round(times[1], 3)}
            file.write(json.dumps(window | {"frames": frames_of_window(start, end).tolist()}) + "\n")


def read_windows(path: Path) -> WindowList:
    """Read what `write_windows` wrote; raises UserError where a line is something else."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            row = decode(line, Window)
            if row["start_frame"] >= row["end_frame"]:
                raise SchemaError("end_frame: not after start_frame")
        except SchemaError as error:
            raise UserError(
                f"{path}, line {number}: not a window ({error}); make the file with thumos14.py windows"
            ) from None
        rows.append(row)
    return WindowList(
        videos=np.array([row["video"] for row in rows], str),
        frames=np.array([(row["start_frame"], row["end_frame"]) for row in rows], np.int64).reshape(-1, 2),
        fps=np.array([row["fps"] for row in rows], np.float64),
    )


def read_annotations(folder: Path, *, subset: str) -> dict[str, Segments]:
    """The official lists of one folder, `<Class>_test.txt` or `<Class>_val.txt`: lines 'video start end' in seconds.

    Returns:
        By class in the official order, with "Ambiguous" last. Classes without a list are left out.

    Raises:
        UserError: There is no list, or a line has another form.
    """
    found = {}
    for name in (*CLASS_IDS, AMBIGUOUS):
        path = folder / f"{name}_{subset}.txt"
        if path.is_file():
            lines = parse_lines(path, "video start end")
            found[name] = Segments.of([(video, start, end, name, 1.0) for _, video, (start, end) in lines])
    if not any(len(found[name]) for name in found if name != AMBIGUOUS):
        raise UserError(f"{folder}: no annotated class, such as Diving_{subset}.txt; give the folder of the lists")
    return found


def read_detections(path: Path) -> tuple[Segments, int]:
    """A file in the official format: lines 'video start end class-number score', seconds.

    Returns:
        The detections, and how many lines were skipped because their class is none of the 20, as the kit does.

    Raises:
        UserError: A line has another form.
    """
    lines = parse_lines(path, "video start end class score")
    rows = [
        (video, start, end, CLASS_NAMES[int(label)], score)
        for _, video, (start, end, label, score) in lines
        if label in CLASS_NAMES
    ]
    return Segments.of(rows), len(lines) - len(rows)


def write_detections(path: Path, found: Segments) -> None:
    """The official format, best first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in np.argsort(-found.scores, kind="stable"):
            (start, end), number = found.times[row], CLASS_IDS[str(found.classes[row])]
            file.write(f"{found.videos[row]} {start:.3f} {end:.3f} {number} {found.scores[row]:.9g}\n")


def match(truths: np.ndarray, detections: np.ndarray, *, iou_threshold: float) -> np.ndarray:
    """Which detections of one class in one video are right, by the rule of the official kit.

    Each true segment in turn takes the free detection that overlaps it most, if their IoU is above the threshold;
    of equals the surer one. So a true segment counts once, and so does a detection.

    Args:
        truths: Rows (start, end), in the order of their list, [G, 2].
        detections: The same, surest first, [D, 2]. Returns bool [D].
    """
    overlaps = temporal_iou(truths, detections)  # [G, D]
    right = np.zeros(overlaps.shape[1], bool)
    for row in overlaps if len(right) else []:
        free = np.where(right, -1, row)
        best = int(free.argmax())
        right[best] |= free[best] > iou_threshold
    return right


def average_precision(right: np.ndarray, *, num_truths: int) -> float:
    """Mean over all true segments of the precision at which each is found, 0 for one that is not.

    `prap` of TH14evalDet_Updated.m, without interpolation. `right` is of all detections, surest first, bool [D].

    Raises:
        UserError: There are no true segments, or fewer than right detections.

    >>> average_precision(np.array([True, False, True]), num_truths=4)  # (1/1 + 2/3) / 4
    0.41666666666666663
    """
    if num_truths < max(1, int(np.sum(right))):
        raise UserError(f"num_truths: {num_truths} for {np.sum(right)} right detections; a class needs at least 1")
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)  # [D]
    return float(precision[np.asarray(right, bool)].sum() / num_truths)


def class_average_precision(
    found: Segments, truths: Segments, ambiguous: Segments | None, *, iou_threshold: float
) -> float:
    """AP of one class over all videos: detections that are wrong but touch an ambiguous segment are not counted."""
    true_rows, none = rows_by_name(truths.videos), np.zeros(0, np.int64)
    unclear_rows = rows_by_name(ambiguous.videos) if ambiguous is not None else {}
    right, counted, scores = [], [], []
    for video, rows in rows_by_name(found.videos).items():
        here = found.take(rows[np.argsort(-found.scores[rows], kind="stable")])
        is_right = match(truths.times[true_rows.get(video, none)], here.times, iou_threshold=iou_threshold)
        vague = np.zeros((0, len(here)))
        if ambiguous is not None:
            vague = temporal_iou(ambiguous.times[unclear_rows.get(video, none)], here.times)  # [A, D]
        right.append(is_right)
        counted.append(is_right | ~(vague > 0).any(axis=0))
        scores.append(here.scores)
    if not right:
        return 0.0
    keep = np.concatenate(counted)
    order = np.argsort(-np.concatenate(scores)[keep], kind="stable")
    return average_precision(np.concatenate(right)[keep][order], num_truths=len(truths))


@dataclass(frozen=True)
class DetectionScores:
    """How good detections are: `average_precisions` 0…1, float64 [K, I], of K classes at I thresholds; and K counts of
    true segments."""

    classes: list[str]
    iou_thresholds: tuple[float, ...]
    average_precisions: np.ndarray
    num_truths: list[int]

    @property
    def mean(self) -> np.ndarray:
        """mAP at each threshold, float64 [I]."""
        return self.average_precisions.mean(axis=0)

    def summary(self) -> dict[str, Any]:
        """Everything as lists and dicts by class; precisions 0…1."""
        return {
            "iou_thresholds": list(self.iou_thresholds),
            "mean_average_precision": self.mean.tolist(),
            "average_precision": dict(zip(self.classes, self.average_precisions.tolist(), strict=True)),
            "num_truths": dict(zip(self.classes, self.num_truths, strict=True)),
        }

    def lines(self) -> list[str]:
        """AP in percent by class and threshold, and the mean of each column, aligned."""
        header = ["IoU", "segments", *(f"{threshold:.2g}" for threshold in self.iou_thresholds)]
        found = zip(self.classes, self.num_truths, self.average_precisions, strict=True)
        rows = [
            [name, str(count), *(f"{100 * value:.1f}" for value in precisions)]
            for name, count, precisions in (*found, ("mAP", sum(self.num_truths), self.mean))
        ]
        return text_table(header, rows)


def evaluate(
    found: Segments,
    annotations: dict[str, Segments],
    *,
    iou_thresholds: tuple[float, ...] = IOU_THRESHOLDS,
    nms_margin: float | None = None,
    on_class: Callable[[int, int], None] = lambda *_: None,
) -> DetectionScores:
    """Average precision of each annotated class at each threshold, as TH14evalDet_Updated.m of the official kit has it.

    Args:
        nms_margin: Suppress first, at each threshold minus this: S-CNN takes 0.1. None leaves them as they are.
        on_class: Told (classes done, classes in all).
    """
    classes = [name for name in annotations if name != AMBIGUOUS and len(annotations[name])]
    precisions = np.zeros((len(classes), len(iou_thresholds)))  # [K, I]
    for k, name in enumerate(classes):
        of_class = found.take(found.classes == name)
        for i, threshold in enumerate(iou_thresholds):
            # Rounded: 0.3 - 0.1 is a little less than 0.2.
            level = None if nms_margin is None else max(0.0, round(threshold - nms_margin, 9))
            scored = of_class if level is None else suppress(of_class, iou_threshold=level)
            precisions[k, i] = class_average_precision(
                scored, annotations[name], annotations.get(AMBIGUOUS), iou_threshold=threshold
            )
        on_class(k + 1, len(classes))
    return DetectionScores(classes, iou_thresholds, precisions, [len(annotations[name]) for name in classes])


def best_iou(windows: WindowList, truths: Segments) -> np.ndarray:
    """IoU of each window with the true segment of its video that it overlaps most, 0 without one: float64 [W]."""
    best, times, rows = np.zeros(len(windows)), windows.times, rows_by_name(windows.videos)
    for video, true_rows in rows_by_name(truths.videos).items():
        if video in rows:
            best[rows[video]] = temporal_iou(times[rows[video]], truths.times[true_rows]).max(axis=1)
    return best


@dataclass(frozen=True)
class LinearDetector:
    """A linear classifier a class, each against everything else, so that a window can show several actions.

    Of L2-normalised features: `weights` float64 [K, D], `biases` float64 [K].
    """

    classes: list[str]
    weights: np.ndarray
    biases: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """0…1, the logistic of the margin, which keeps its order: float64 [W, K]."""
        margins = l2_normalised(features) @ self.weights.T + self.biases  # [W, K]
        return 1 / (1 + np.exp(-margins))


def train_detector(
    features: np.ndarray,
    windows: WindowList,
    annotations: dict[str, Segments],
    *,
    c: float = 1.0,
    on_class: Callable[[int, int], None] = lambda *_: None,
) -> LinearDetector:
    """Train on windows of annotated videos, which here are those of the validation set.

    A class takes the windows of IoU 0.5 and more with one of its segments as examples, and up to 20 times as many of
    IoU below 0.3 as counter-examples, drawn at random. Windows that touch ambiguous segments are left out.

    Args:
        features: Of each window, float [W, D].
        on_class: Told (classes done, classes in all).

    Raises:
        UserError: No class has an example and a counter-example.
    """
    from sklearn.svm import LinearSVC

    units, rng = l2_normalised(features), np.random.default_rng(0)  # [W, D]
    clear = np.ones(len(windows), bool)
    if AMBIGUOUS in annotations:
        clear = best_iou(windows, annotations[AMBIGUOUS]) == 0
    names = [name for name in annotations if name != AMBIGUOUS]
    classes, weights, biases = [], [], []
    for done, name in enumerate(names, start=1):
        overlap = best_iou(windows, annotations[name])
        positive = np.flatnonzero(overlap >= POSITIVE_IOU)
        negative = np.flatnonzero((overlap < NEGATIVE_IOU) & clear)
        if len(positive) and len(negative):
            num_negative = min(len(negative), NEGATIVES_PER_POSITIVE * len(positive))
            rows = np.concatenate([positive, rng.choice(negative, num_negative, replace=False)])
            is_class = np.arange(len(rows)) < len(positive)
            svm = LinearSVC(C=c, class_weight="balanced", random_state=0).fit(units[rows], is_class)
            classes.append(name)
            weights.append(svm.coef_[0])
            biases.append(svm.intercept_[0])
        on_class(done, len(names))
    if not classes:
        raise UserError(
            f"training windows: none of {len(windows)} has IoU {POSITIVE_IOU} with an annotated segment; "
            "give windows of the annotated videos"
        )
    return LinearDetector(classes, np.array(weights), np.array(biases))


def window_weights(annotations: dict[str, Segments], classes: list[str], windows: WindowList) -> np.ndarray:
    """How usual it is for an action of each class to take as long as each window, by S-CNN's rule.

    A true segment counts for every window length between half and twice its own duration; the counts of a class are
    divided by their sum. A length lasts what its windows last on average.

    Returns:
        float64 [W, K]; 1 for a class without annotations or whose segments fit no length.
    """
    lengths, which = np.unique(windows.lengths, return_inverse=True)
    lasting = np.diff(windows.times, axis=1)[:, 0]  # [W]
    durations_s = np.bincount(which, weights=lasting, minlength=len(lengths)) / np.bincount(which)  # [L]
    weights = np.ones((len(durations_s), len(classes)))
    for k, name in enumerate(classes):
        if name in annotations:
            true_s = np.diff(annotations[name].times, axis=1)[:, 0]  # [N]
            fits = (true_s >= durations_s[:, None] / 2) & (true_s <= durations_s[:, None] * 2)  # [L, N]
            counts = fits.sum(axis=1)
            if counts.any():
                weights[:, k] = counts / counts.sum()
    return weights[which]


def with_rows(keys: list[str], windows: WindowList, *, what: str) -> tuple[np.ndarray, np.ndarray]:
    """The windows that a file has something for, and where: int64 [w] and int64 [w].

    Raises:
        UserError: It has nothing for any of them.
    """
    row_of = {key: row for row, key in enumerate(keys)}
    rows = np.array([row_of.get(key, -1) for key in windows.keys], np.int64)
    if not (rows >= 0).any():
        first = windows.keys[0] if len(windows) else "none"
        raise UserError(f"{what}: nothing for any of {len(windows)} windows, the first is {first}; give their file")
    return np.flatnonzero(rows >= 0), rows[rows >= 0]


def read_scores(path: Path, windows: WindowList) -> tuple[WindowList, np.ndarray, list[str]]:
    """Scores of windows out of a Parquet file: their `key`, and a column of numbers for each class.

    Returns:
        The windows that are in it, their scores, float64 [W, K], and the classes, perhaps with "Background".

    Raises:
        UserError: It holds something else, or nothing for these windows.
    """
    file = FeatureFile(path)
    classes = [name for name in (*CLASS_IDS, BACKGROUND) if name in file.columns]
    if not classes:
        raise UserError(f"{path}: no column is named like a class; give one for each, such as Diving")
    found = file.read(["key", *classes])
    if any(found[name].ndim != 1 for name in classes):
        raise UserError(f"{path}: a class has lists of numbers; give one score a window")
    chosen, rows = with_rows(found["key"].tolist(), windows, what=str(path))
    scores = np.stack([found[name] for name in classes], axis=1).astype(np.float64)
    return windows.take(chosen), scores[rows], classes


def scores_from_features(
    features: Path,
    windows: WindowList,
    *,
    train_features: Path,
    train_windows: WindowList,
    annotations: dict[str, Segments],
    layer: str,
    c: float,
    on_class: Callable[[int, int], None] = lambda *_: None,
) -> tuple[WindowList, np.ndarray, list[str]]:
    """Train a detector on annotated windows and score others with it; returns and raises what `read_scores` does."""
    keys, values = read_rows(train_features, layers=[layer])
    found, rows = with_rows(keys, train_windows, what=str(train_features))
    detector = train_detector(values[layer][rows], train_windows.take(found), annotations, c=c, on_class=on_class)
    keys, values = read_rows(features, layers=[layer])
    found, rows = with_rows(keys, windows, what=str(features))
    return windows.take(found), detector.scores(values[layer][rows]), detector.classes


def detect(
    scores: np.ndarray,
    classes: list[str],
    windows: WindowList,
    *,
    nms_iou: float,
    weights: np.ndarray | None = None,
    keep: int | None = None,
    on_video: Callable[[int, int], None] = lambda *_: None,
) -> Segments:
    """Detections: scored windows without those that overlap a better one of their class.

    With a column "Background" a window speaks for its best class only and is left out if that is background, as in
    S-CNN; without one it speaks for every class.

    Args:
        scores: Higher is surer, float [W, K].
        classes: THUMOS14 classes, and perhaps "Background", K.
        weights: What scores are multiplied by once the best class is known, float [W, K].
        nms_iou, keep, on_video: See `suppress`.
    """
    counts = np.ones(scores.shape, bool)
    if BACKGROUND in classes:
        counts = np.arange(len(classes)) == scores.argmax(axis=1)[:, None]
    rows, labels = np.nonzero(counts & (np.array(classes, str) != BACKGROUND))
    weighed = scores if weights is None else scores * weights
    found = Segments(windows.videos[rows], windows.times[rows], np.array(classes, str)[labels], weighed[rows, labels])
    return suppress(found, iou_threshold=nms_iou, keep=keep, on_video=on_video)
