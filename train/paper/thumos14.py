"""Temporal detection on THUMOS14: sliding windows, detections from their scores, and mAP by the official rules.

Windows, their weights by length, and suppression per class follow S-CNN (Shou et al. 2016), as arXiv:1708.05038 does.
S-CNN trains three networks; here, a linear SVM on the features of each window replaces the last two.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.files import read_text
from res3d_video.train.evaluation.features import l2_normalised, load_features
from res3d_video.train.terminal import text_table

if TYPE_CHECKING:
    from sklearn.svm import LinearSVC

WINDOW_LENGTHS = (16, 32, 64, 128, 256, 512)  # frames
WINDOWS_A_LENGTH = 4  # start within the length of one, so that neighbors overlap by three quarters
WINDOW_CLIP = 16  # frames of a window that the network sees
POSITIVE_IOU = 0.5  # a window with at least this IoU with an action is an example of it
NEGATIVE_IOU = 0.3  # a window with less is background; those in between are not used for training
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
AMBIGUOUS = "Ambiguous"
KEEP = 1000  # most detections per class and video
MAX_NUMBER = 1e9  # of seconds and scores
MAX_FRAMES = 10**7  # of a video: four days
MIN_FPS, MAX_FPS = 0.001, 1000.0


@dataclass(frozen=True)
class Rows:
    """Arrays of equal length; `videos` are names without a suffix, str [N]."""

    videos: np.ndarray

    def __len__(self) -> int:
        return len(self.videos)

    def take(self, rows: np.ndarray) -> Self:
        """A selection of the rows: their numbers, or a mask."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class Segments(Rows):
    """N annotated or detected segments of videos.

    Attributes:
        times: (start, end) with start <= end, seconds, float64 [N, 2].
        classes: Names, str [N].
        scores: Scores of detections, higher is better, float64 [N]; 1 for annotations.
    """

    times: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    @staticmethod
    def of(rows: list[tuple[str, float, float, str, float]]) -> "Segments":
        """From (video, start, end, class, score); like the official kit, the smaller time is the start."""
        videos, starts, ends, classes, scores = zip(*rows, strict=True) if rows else ((), (), (), (), ())
        times = np.sort(np.stack([np.array(starts, np.float64), np.array(ends, np.float64)], axis=1), axis=1)  # [N, 2]
        return Segments(np.array(videos, str), times, np.array(classes, str), np.array(scores, np.float64))


@dataclass(frozen=True)
class WindowList(Rows):
    """W windows of videos.

    Attributes:
        frames: (first frame, frame after the last), 0-based, int64 [W, 2].
        fps: Frames/s of the window's video, float64 [W].
    """

    frames: np.ndarray
    fps: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each window, int64 [W]."""
        return self.frames[:, 1] - self.frames[:, 0]

    @property
    def times(self) -> np.ndarray:
        """(start, end), seconds, float64 [W, 2]; S-CNN starts one frame later, because it counts frames from 1."""
        return self.frames / self.fps[:, None]

    @property
    def keys(self) -> list[str]:
        """Unique names such as video_test_0000179/000016-000032, with the numbers in `frames`."""
        return [f"{video}/{start:06}-{end:06}" for video, (start, end) in zip(self.videos, self.frames, strict=True)]


class VideoLength(NamedTuple):
    """Name of a video, its number of frames, and its frames/s."""

    name: str
    num_frames: int
    fps: float


def temporal_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair of segments (start, end), [N, 2] and [M, 2].

    Returns:
        float64 [N, M], 0 to 1; 0 for segments that only touch, and for empty ones.

    >>> temporal_iou(np.array([[0, 4]]), np.array([[2, 6], [4, 8], [0, 4]])).round(3)
    array([[0.333, 0.   , 1.   ]])
    """
    first, second = (np.asarray(rows, np.float64).reshape(-1, 2) for rows in (first, second))
    return _iou(first[:, None, 0], first[:, None, 1], second[None, :, 0], second[None, :, 1])


def _iou(starts: np.ndarray, ends: np.ndarray, other_starts: np.ndarray, other_ends: np.ndarray) -> np.ndarray:
    """`temporal_iou` of arrays that broadcast."""
    intersection = np.minimum(ends, other_ends) - np.maximum(starts, other_starts)  # negative if they are apart
    union = np.maximum(ends, other_ends) - np.minimum(starts, other_starts)  # if they overlap
    return np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0)


def non_max_suppression(times: np.ndarray, scores: np.ndarray, *, iou_threshold: float) -> np.ndarray:
    """Rows to keep, best first, int64 [M]: the best segment, then the best of those that do not overlap it, and so on.

    Args:
        times: (start, end), [N, 2].
        scores: Higher is better, [N]; of equal ones, the earlier row is better.
        iou_threshold: A segment is dropped if its IoU with a kept one is above this.

    >>> non_max_suppression(np.array([[0, 4], [1, 5], [6, 9]]), np.array([0.5, 0.9, 0.1]), iou_threshold=0.4)
    array([1, 2])
    """
    rest = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    if iou_threshold >= 1:  # no IoU is above it
        return rest[:KEEP]
    starts, ends = np.asarray(times, np.float64).reshape(-1, 2)[rest].T
    kept: list[int] = []
    while len(rest) and len(kept) < KEEP:
        kept.append(int(rest[0]))
        stays = _iou(starts[1:], ends[1:], starts[0], ends[0]) <= iou_threshold
        rest, starts, ends = rest[1:][stays], starts[1:][stays], ends[1:][stays]
    return np.array(kept, np.int64)


def rows_by_name(names: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> rows in which it occurs, int64, ascending; sorted by name.

    >>> rows_by_name(np.array(["b", "a", "b"]))
    {'a': array([1]), 'b': array([0, 2])}
    """
    if not len(names):
        return {}
    order = np.argsort(names, kind="stable")
    found, first = np.unique(names[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, first[1:]), strict=True))


def suppress(
    found: Segments, *, iou_threshold: float, on_video: Callable[[int, int], None] = lambda *_: None
) -> Segments:
    """Non-maximum suppression per class and video; calls `on_video` with (videos done, videos in all)."""
    kept, videos = [np.zeros(0, np.int64)], rows_by_name(found.videos)
    for done, of_video in enumerate(videos.values(), start=1):
        for which in rows_by_name(found.classes[of_video]).values():
            rows = of_video[which]
            kept.append(rows[non_max_suppression(found.times[rows], found.scores[rows], iou_threshold=iou_threshold)])
        on_video(done, len(videos))
    return found.take(np.concatenate(kept))


def parse_lines(path: Path, form: str) -> list[tuple[int, str, list[float]]]:
    """Read lines with the name of a video and numbers: (line number, name without suffix, numbers) of each.

    Args:
        form: Shown in errors; has as many words as a line.

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
    """Read lines 'video frames frames/s', such as 'video_test_0000004 1012 30'.

    Raises:
        UserError: A line has another form, or a video occurs twice.
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


def list_windows(videos: list[VideoLength]) -> WindowList:
    """All sliding windows that fit into videos, a quarter of their length apart; by video, length and start."""
    frames, counts = [np.zeros((0, 2), np.int64)], []
    for video in videos:
        starts = [np.arange(0, video.num_frames - n + 1, n // WINDOWS_A_LENGTH) for n in WINDOW_LENGTHS]
        lengths = np.repeat(WINDOW_LENGTHS, [len(of_length) for of_length in starts])
        first = np.concatenate(starts).astype(np.int64)
        frames.append(np.stack([first, first + lengths], axis=1))  # [w, 2]
        counts.append(len(first))
    names, fps = np.array([video.name for video in videos], str), np.array([video.fps for video in videos], np.float64)
    return WindowList(np.repeat(names, counts), np.concatenate(frames), np.repeat(fps, counts))


def read_annotations(folder: Path, *, subset: str) -> dict[str, Segments]:
    """Read the official lists of a folder, `<Class>_test.txt` or `<Class>_val.txt`: lines 'video start end', seconds.

    Returns:
        Class -> its segments, in the official order with "Ambiguous" last; without classes that have no list.

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
    """Read a file in the official format: lines 'video start end class-number score', seconds.

    Returns:
        The detections, and the number of lines that were skipped, as in the kit, because they are of other classes.

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
    """Write detections in the official format, best first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in np.argsort(-found.scores, kind="stable"):
            (start, end), number = found.times[row], CLASS_IDS[str(found.classes[row])]
            file.write(f"{found.videos[row]} {start:.3f} {end:.3f} {number} {found.scores[row]:.9g}\n")


def match(truths: np.ndarray, detections: np.ndarray, *, iou_threshold: float) -> np.ndarray:
    """Which detections of a class in a video are right, by the rule of the official kit: bool [D].

    Each true segment in turn takes the free detection with the largest IoU, if that is above the threshold; of equal
    ones, the one with the best score. So each true segment and each detection counts once.

    Args:
        truths: (start, end), in the order of their list, [G, 2].
        detections: (start, end), best score first, [D, 2].
    """
    overlaps = temporal_iou(truths, detections)  # [G, D]
    right = np.zeros(overlaps.shape[1], bool)
    for row in overlaps if len(right) else []:
        free = np.where(right, -1, row)
        best = int(free.argmax())
        right[best] |= free[best] > iou_threshold
    return right


def average_precision(right: np.ndarray, *, num_truths: int) -> float:
    """Mean over all true segments of the precision at which each is found; 0 for those that are not found.

    As `prap` in TH14evalDet_Updated.m, without interpolation.

    Args:
        right: Whether each detection is right, best score first, bool [D].

    >>> average_precision(np.array([True, False, True]), num_truths=4)  # (1/1 + 2/3) / 4
    0.41666666666666663
    """
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)  # [D]
    return float(precision[right].sum() / num_truths)


def class_average_precision(
    found: Segments, truths: Segments, ambiguous: Segments | None, *, iou_threshold: float
) -> float:
    """AP of a class over all videos; wrong detections that overlap an ambiguous segment do not count."""
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
    """Scores of detections.

    Attributes:
        average_precisions: AP of K classes at I thresholds, 0 to 1, float64 [K, I].
        num_truths: Number of true segments of each class.
    """

    classes: list[str]
    iou_thresholds: tuple[float, ...]
    average_precisions: np.ndarray
    num_truths: list[int]

    @property
    def mean(self) -> np.ndarray:
        """mAP at each threshold, 0 to 1, float64 [I]."""
        return self.average_precisions.mean(axis=0)

    def summary(self) -> dict[str, Any]:
        """The scores in the JSON file; precisions are 0 to 1."""
        return {
            "iou_thresholds": list(self.iou_thresholds),
            "mean_average_precision": self.mean.tolist(),
            "average_precision": dict(zip(self.classes, self.average_precisions.tolist(), strict=True)),
            "num_truths": dict(zip(self.classes, self.num_truths, strict=True)),
        }

    def lines(self) -> list[str]:
        """A table of AP by class and threshold, in percent, with the mean of each column."""
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
    scnn_nms: bool = False,
    on_class: Callable[[int, int], None] = lambda *_: None,
) -> DetectionScores:
    """Average precision of each annotated class at each threshold, as in TH14evalDet_Updated.m of the official kit.

    Args:
        scnn_nms: First suppress overlaps, at each threshold minus 0.1, as S-CNN does.
    """
    classes = [name for name in annotations if name != AMBIGUOUS and len(annotations[name])]
    precisions = np.zeros((len(classes), len(iou_thresholds)))  # [K, I]
    for k, name in enumerate(classes):
        of_class, true = found.take(found.classes == name), annotations[name]
        for i, threshold in enumerate(iou_thresholds):
            scored = of_class
            if scnn_nms:  # rounded: 0.3 - 0.1 is a little less than 0.2
                scored = suppress(of_class, iou_threshold=round(threshold - SCNN_NMS_MARGIN, 9))
            ambiguous = annotations.get(AMBIGUOUS)
            precisions[k, i] = class_average_precision(scored, true, ambiguous, iou_threshold=threshold)
        on_class(k + 1, len(classes))
    return DetectionScores(classes, iou_thresholds, precisions, [len(annotations[name]) for name in classes])


def best_iou(windows: WindowList, truths: Segments) -> np.ndarray:
    """Largest IoU of each window with a true segment of its video; 0 if it overlaps none: float64 [W]."""
    best, times, rows = np.zeros(len(windows)), windows.times, rows_by_name(windows.videos)
    for video, true_rows in rows_by_name(truths.videos).items():
        if video in rows:
            best[rows[video]] = temporal_iou(times[rows[video]], truths.times[true_rows]).max(axis=1)
    return best


def train_detector(
    features: np.ndarray,
    windows: WindowList,
    annotations: dict[str, Segments],
    *,
    c: float = 1.0,
    on_class: Callable[[int, int], None] = lambda *_: None,
) -> "dict[str, LinearSVC]":
    """Train a linear classifier for each class against all other windows, so that a window can show several actions.

    Positive examples of a class have an IoU of at least 0.5 with one of its segments. Negative ones have less than 0.3;
    up to 20 times as many are drawn at random, none of which overlaps an ambiguous segment.

    Args:
        features: Features of the windows of annotated videos, float [W, D].

    Returns:
        Class -> its classifier; without classes that lack positive or negative examples.

    Raises:
        UserError: All classes lack them.
    """
    from sklearn.svm import LinearSVC

    units, rng = l2_normalised(features), np.random.default_rng(0)  # [W, D]
    clear = np.ones(len(windows), bool)
    if AMBIGUOUS in annotations:
        clear = best_iou(windows, annotations[AMBIGUOUS]) == 0
    names, detector = [name for name in annotations if name != AMBIGUOUS], {}
    for done, name in enumerate(names, start=1):
        overlap = best_iou(windows, annotations[name])
        positive = np.flatnonzero(overlap >= POSITIVE_IOU)
        negative = np.flatnonzero((overlap < NEGATIVE_IOU) & clear)
        if len(positive) and len(negative):
            num_negative = min(len(negative), NEGATIVES_PER_POSITIVE * len(positive))
            rows = np.concatenate([positive, rng.choice(negative, num_negative, replace=False)])
            is_class = np.arange(len(rows)) < len(positive)
            detector[name] = LinearSVC(C=c, class_weight="balanced", random_state=0).fit(units[rows], is_class)
        on_class(done, len(names))
    if not detector:
        raise UserError(
            f"training windows: none of {len(windows)} has IoU {POSITIVE_IOU} with an annotated segment; "
            "give windows of the annotated videos"
        )
    return detector


def window_weights(annotations: dict[str, Segments], classes: list[str], windows: WindowList) -> np.ndarray:
    """How common the duration of each window is among the actions of each class, by the rule of S-CNN.

    A true segment counts for each window length between half and twice its duration; the counts of a class are divided
    by their sum. The duration of a window length is the mean over its windows.

    Returns:
        float64 [W, K]; 1 for a class without annotations, or whose segments fit no window length.
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


def read_window_features(path: Path, windows: WindowList, *, layer: str) -> tuple[WindowList, np.ndarray]:
    """Read features of windows: the windows that have features, and their features, float [w, D].

    Raises:
        UserError: None of the windows has features.
    """
    features = load_features(path, [layer])
    row_of = {key: row for row, key in enumerate(features.keys.tolist())}
    rows = np.array([row_of.get(key, -1) for key in windows.keys], np.int64)
    if not (rows >= 0).any():
        first = windows.keys[0] if len(windows) else "none"
        raise UserError(f"{path}: nothing for any of {len(windows)} windows, the first is {first}; give their file")
    return windows.take(rows >= 0), features.layers[layer][rows[rows >= 0]]


def detect(
    detector: "dict[str, LinearSVC]",
    features: np.ndarray,
    windows: WindowList,
    annotations: dict[str, Segments],
    *,
    nms_iou: float,
    on_video: Callable[[int, int], None] = lambda *_: None,
) -> Segments:
    """Detections: for each class, the windows that do not overlap a better one.

    The score is the logistic of the SVM's margin, 0 to 1, times the weight of the window's length.

    Args:
        features: Features of the windows, float [W, D].
        annotations: Annotations of the training videos, for the usual durations.
    """
    units, classes = l2_normalised(features), [*detector]
    margins = np.stack([svm.decision_function(units) for svm in detector.values()], axis=1)  # [W, K]
    scores = window_weights(annotations, classes, windows) / (1 + np.exp(-margins))
    rows, labels = np.indices(scores.shape).reshape(2, -1)
    found = Segments(windows.videos[rows], windows.times[rows], np.array(classes, str)[labels], scores.ravel())
    return suppress(found, iou_threshold=nms_iou, on_video=on_video)
