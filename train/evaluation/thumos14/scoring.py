"""Average precision of temporal detections, by the rules of the official THUMOS14 evaluation kit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.train.evaluation.thumos14.annotations import AMBIGUOUS, Segments, suppress
from res3d_video.train.evaluation.thumos14.segments import rows_by_name, temporal_iou
from res3d_video.train.text_table import text_table

IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def match(truths: np.ndarray, detections: np.ndarray, *, iou_threshold: float) -> np.ndarray:
    """Which detections of one class in one video are right, by the rule of the official kit.

    Each true segment in turn takes the free detection that overlaps it most, if their IoU is above the threshold;
    of equals the surer one. So a true segment counts once, and so does a detection.

    Args:
        truths: Rows (start, end), seconds, in the order of their list, [G, 2].
        detections: The same, surest first, [D, 2].

    Returns:
        bool [D].
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

    This is `prap` of TH14evalDet_Updated.m, without interpolation: the sum of the precisions at the right
    detections, over the number of true segments.

    Args:
        right: Of all detections, surest first, bool [D].

    Raises:
        ValueError: There are no true segments, or fewer than right detections.

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
    """AP of one class over all videos: detections that are wrong but touch an ambiguous segment are not counted.

    Args:
        found, truths: Detections and annotations of the class.
        ambiguous: Segments of no clear class, if there is a list of them.
    """
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
    """How good detections are.

    Attributes:
        classes: Names, K.
        iou_thresholds: What counts as found, I.
        average_precisions: 0…1, float64 [K, I].
        num_truths: True segments of each class, K.
    """

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


def evaluate(
    found: Segments,
    annotations: dict[str, Segments],
    *,
    iou_thresholds: tuple[float, ...] = IOU_THRESHOLDS,
    nms_margin: float | None = None,
    on_class: Callable[[int, int], None] | None = None,
) -> DetectionScores:
    """Average precision of each annotated class at each threshold, as TH14evalDet_Updated.m of the official kit has it.

    Args:
        found: Detections of any classes; those of classes without annotations are not looked at.
        annotations: As `read_annotations` returns them.
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
        if on_class is not None:
            on_class(k + 1, len(classes))
    return DetectionScores(classes, iou_thresholds, precisions, [len(annotations[name]) for name in classes])


def score_lines(scores: DetectionScores) -> list[str]:
    """AP in percent by class and threshold, and the mean of each column, aligned."""
    header = ["IoU", "segments", *(f"{threshold:.2g}" for threshold in scores.iou_thresholds)]
    found = zip(scores.classes, scores.num_truths, scores.average_precisions, strict=True)
    rows = [
        [name, str(count), *(f"{100 * value:.1f}" for value in precisions)]
        for name, count, precisions in (*found, ("mAP", sum(scores.num_truths), scores.mean))
    ]
    return text_table(header, rows)
