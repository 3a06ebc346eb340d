"""From features or scores of windows to detections, in the manner of S-CNN (Shou et al. 2016).

S-CNN trains three networks; here a linear SVM on the features of each window takes the place of the last two, as it
does for whole videos. What is the same: the windows, the weight of a window by its length, suppression by class.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.train.evaluation.features.rows import l2_normalised
from res3d_video.train.evaluation.thumos14.annotations import AMBIGUOUS, CLASS_IDS, Segments, suppress
from res3d_video.train.evaluation.thumos14.segments import rows_by_name, temporal_iou
from res3d_video.train.evaluation.thumos14.windows import WindowList

POSITIVE_IOU = 0.5  # a window with this much of an action is an example of it
NEGATIVE_IOU = 0.3  # one with less is background; those between are not trained on
NEGATIVES_PER_POSITIVE = 20
BACKGROUND = "Background"
SCNN_NMS_MARGIN = 0.1  # S-CNN suppresses at the IoU of the evaluation minus this


def best_iou(windows: WindowList, rows: dict[str, np.ndarray], truths: Segments) -> np.ndarray:
    """IoU of each window with the true segment of its video that it overlaps most, 0 without one: float64 [W].

    Args:
        rows: The windows of each video, as `rows_by_name` gives them.
    """
    best = np.zeros(len(windows))
    times = windows.times
    for video, true_rows in rows_by_name(truths.videos).items():
        if video in rows:
            best[rows[video]] = temporal_iou(times[rows[video]], truths.times[true_rows]).max(axis=1)
    return best


@dataclass(frozen=True)
class LinearDetector:
    """A linear classifier a class, each against everything else, so that a window can show several actions.

    Attributes:
        classes: Names, K.
        weights: Of L2-normalised features, float64 [K, D].
        biases: float64 [K].
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
    seed: int = 0,
    on_class: Callable[[int, int], None] | None = None,
) -> LinearDetector:
    """Train on windows of annotated videos, which here are those of the validation set.

    A class takes the windows of IoU 0.5 and more with one of its segments as examples, and up to 20 times as many of
    IoU below 0.3 as counter-examples, drawn at random. Windows that touch ambiguous segments are left out.

    Args:
        features: Of each window, float [W, D].
        c: Of the SVM.
        on_class: Told (classes done, classes in all).

    Raises:
        ValueError: No class has an example and a counter-example.
    """
    from sklearn.svm import LinearSVC

    units, generator = l2_normalised(features), np.random.default_rng(seed)  # [W, D]
    of_video, clear = rows_by_name(windows.videos), np.ones(len(windows), bool)
    if AMBIGUOUS in annotations:
        clear = best_iou(windows, of_video, annotations[AMBIGUOUS]) == 0
    names = [name for name in annotations if name != AMBIGUOUS]
    classes, weights, biases = [], [], []
    for done, name in enumerate(names, start=1):
        overlap = best_iou(windows, of_video, annotations[name])
        positive = np.flatnonzero(overlap >= POSITIVE_IOU)
        negative = np.flatnonzero((overlap < NEGATIVE_IOU) & clear)
        if len(positive) and len(negative):
            num_negative = min(len(negative), NEGATIVES_PER_POSITIVE * len(positive))
            rows = np.concatenate([positive, generator.choice(negative, num_negative, replace=False)])
            is_class = np.arange(len(rows)) < len(positive)
            svm = LinearSVC(C=c, class_weight="balanced", random_state=seed).fit(units[rows], is_class)
            classes.append(name)
            weights.append(svm.coef_[0])
            biases.append(svm.intercept_[0])
        if on_class is not None:
            on_class(done, len(names))
    if not classes:
        raise UserError(
            f"training windows: none of {len(windows)} has IoU {POSITIVE_IOU} with an annotated segment; "
            "give windows of the annotated videos"
        )
    return LinearDetector(classes, np.array(weights), np.array(biases))


def length_weights(annotations: dict[str, Segments], classes: list[str], *, durations_s: np.ndarray) -> np.ndarray:
    """How usual it is for an action of each class to take as long as a window, by S-CNN's rule.

    A true segment counts for every window length between half and twice its own duration; the counts of a class are
    divided by their sum.

    Args:
        annotations: The validation set's.
        durations_s: Of the window lengths, seconds, [L].

    Returns:
        float64 [L, K]; 1 for a class without annotations or whose segments fit no length.
    """
    weights = np.ones((len(durations_s), len(classes)))
    for k, name in enumerate(classes):
        if name in annotations:
            lasting = np.diff(annotations[name].times, axis=1)[:, 0]  # [N]
            fits = (lasting >= durations_s[:, None] / 2) & (lasting <= durations_s[:, None] * 2)  # [L, N]
            counts = fits.sum(axis=1)
            if counts.any():
                weights[:, k] = counts / counts.sum()
    return weights


def window_weights(annotations: dict[str, Segments], classes: list[str], windows: WindowList) -> np.ndarray:
    """The weight of each window for each class, float64 [W, K]; a length lasts what its windows last on average."""
    lengths, which = np.unique(windows.lengths, return_inverse=True)
    lasting = np.diff(windows.times, axis=1)[:, 0]  # [W]
    durations_s = np.bincount(which, weights=lasting, minlength=len(lengths)) / np.bincount(which)  # [L]
    return length_weights(annotations, classes, durations_s=durations_s)[which]


def detect(
    scores: np.ndarray,
    classes: list[str],
    windows: WindowList,
    *,
    nms_iou: float,
    weights: np.ndarray | None = None,
    keep: int | None = None,
    on_video: Callable[[int, int], None] | None = None,
) -> Segments:
    """Detections: scored windows without those that overlap a better one of their class.

    With a column "Background" a window speaks for its best class only and is left out if that is background, as in
    S-CNN; without one it speaks for every class.

    Args:
        scores: Higher is surer, float [W, K].
        classes: THUMOS14 classes, and perhaps "Background", K.
        weights: What scores are multiplied by once the best class is known, float [W, K].
        nms_iou: A window is dropped if its IoU with a better one is above this.
        keep: Detections of a class in a video, at most.
        on_video: Told (videos done, videos in all).

    Raises:
        ValueError: A class is unknown.
    """
    unknown = [name for name in classes if name not in CLASS_IDS and name != BACKGROUND]
    if unknown:
        raise UserError(f"scores: {unknown[0]} is no class of THUMOS14's detection task; choose {', '.join(CLASS_IDS)}")
    counts = np.ones(scores.shape, bool)
    if BACKGROUND in classes:
        counts = np.arange(len(classes)) == scores.argmax(axis=1)[:, None]
    rows, labels = np.nonzero(counts & (np.array(classes, str) != BACKGROUND))
    weighed = scores if weights is None else scores * weights
    found = Segments(windows.videos[rows], windows.times[rows], np.array(classes, str)[labels], weighed[rows, labels])
    return suppress(found, iou_threshold=nms_iou, keep=keep, on_video=on_video)
