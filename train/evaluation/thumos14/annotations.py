"""THUMOS14 temporal detection: segments of videos, and the official files that hold them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.files import read_text
from res3d_video.train.evaluation.thumos14.segments import non_max_suppression, rows_by_name

# The 20 detection classes and their numbers in a detections file, which are those of UCF101 (detclasslist.txt).
CLASS_IDS = {
    "BaseballPitch": 7, "BasketballDunk": 9, "Billiards": 12, "CleanAndJerk": 21, "CliffDiving": 22,
    "CricketBowling": 23, "CricketShot": 24, "Diving": 26, "FrisbeeCatch": 31, "GolfSwing": 33,
    "HammerThrow": 36, "HighJump": 40, "JavelinThrow": 45, "LongJump": 51, "PoleVault": 68,
    "Shotput": 79, "SoccerPenalty": 85, "TennisSwing": 92, "ThrowDiscus": 93, "VolleyballSpiking": 97,
}  # fmt: skip
CLASS_NAMES = {number: name for name, number in CLASS_IDS.items()}
AMBIGUOUS = "Ambiguous"
MAX_NUMBER = 1e9  # of seconds and scores


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


def parse_line(path: Path, number: int, line: str, *, form: str) -> tuple[str, list[float]]:
    """The first word of a line without a video suffix, and the numbers after it, as many as `form` has words.

    Raises:
        ValueError: It has another form.
    """
    name, *values = line.split()
    try:
        found = [float(value) for value in values]
        if len(found) != len(form.split()) - 1 or not (np.abs(found) <= MAX_NUMBER).all():
            raise ValueError
    except ValueError:
        raise UserError(f"{path}, line {number}: {line.strip()!r:.200} is not of the form '{form}'") from None
    return name.removesuffix(".mp4").removesuffix(".mpeg"), found


def read_annotations(folder: Path, *, subset: str) -> dict[str, Segments]:
    """The official lists of one folder, `<Class>_test.txt` or `<Class>_val.txt`: lines 'video start end' in seconds.

    Args:
        folder: temporal_annotations_test or temporal_annotations_validation.
        subset: "test" or "val".

    Returns:
        By class in the official order, with "Ambiguous" last. Classes without a list are left out.

    Raises:
        ValueError: There is no list, or a line has another form.
    """
    found = {}
    for name in (*CLASS_IDS, AMBIGUOUS):
        path = folder / f"{name}_{subset}.txt"
        if path.is_file():
            rows = []
            for number, line in enumerate(read_text(path).splitlines(), start=1):
                if line.strip():
                    video, (start, end) = parse_line(path, number, line, form="video start end")
                    rows.append((video, start, end, name, 1.0))
            found[name] = Segments.of(rows)
    if not any(len(found[name]) for name in found if name != AMBIGUOUS):
        raise UserError(f"{folder}: no annotated class, such as Diving_{subset}.txt; give the folder of the lists")
    return found


def read_detections(path: Path) -> tuple[Segments, int]:
    """A file in the official format: lines 'video start end class-number score', seconds.

    Returns:
        The detections, and how many lines were skipped because their class is none of the 20, as the kit does.

    Raises:
        ValueError: A line has another form.
    """
    rows, num_skipped = [], 0
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            video, (start, end, label, score) = parse_line(path, number, line, form="video start end class score")
            if label in CLASS_NAMES:
                rows.append((video, start, end, CLASS_NAMES[int(label)], score))
            else:
                num_skipped += 1
    return Segments.of(rows), num_skipped


def write_detections(path: Path, found: Segments) -> None:
    """The official format, best first."""
    order = np.argsort(-found.scores, kind="stable")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in order:
            (start, end), number = found.times[row], CLASS_IDS[str(found.classes[row])]
            file.write(f"{found.videos[row]} {start:.3f} {end:.3f} {number} {found.scores[row]:.9g}\n")


def suppress(
    found: Segments,
    *,
    iou_threshold: float,
    keep: int | None = None,
    on_video: Callable[[int, int], None] | None = None,
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
        if on_video is not None:
            on_video(done, len(videos))
    return found.take(np.concatenate(kept))
