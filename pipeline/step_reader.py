"""The bytes of a step: which strips its clips need, read and checked, with good samples in the place of bad ones."""

from dataclasses import dataclass, fields, replace

import numpy as np
import simplejpeg

from pipeline.clip import frame_indices, num_starts
from pipeline.filmstrip import ClipStrips, blank_tile, clip_strips, max_slots
from pipeline.mapped_tars import PictureReader
from pipeline.plan import Plan, PlannedClips, crop_room
from pipeline.shard import ShardIndex

MAX_REPLACEMENTS = 100  # bad samples in a row before the data as a whole is called broken


class LoaderError(RuntimeError):
    """The loader cannot go on; the message is one line."""


@dataclass(frozen=True)
class ReadWork:
    """What some clips cost to read.

    Attributes:
        num_frames: Delivered.
        num_pictures: Given to the decoder: strips, or frames of a video.
        num_frames_decoded: Frames, or tiles, decoded to get them.
        num_bytes: Compressed, of those pictures.
    """

    num_clips: int = 0
    num_frames: int = 0
    num_pictures: int = 0
    num_frames_decoded: int = 0
    num_bytes: int = 0

    @property
    def decoded_to_used(self) -> float:
        """Frames decoded for each one delivered."""
        return self.num_frames_decoded / self.num_frames

    @property
    def bytes_per_clip(self) -> float:
        return self.num_bytes / self.num_clips

    def __add__(self, other: "ReadWork") -> "ReadWork":
        return ReadWork(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: "ReadWork") -> "ReadWork":
        return ReadWork(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class PlannedStep:
    """One rank's clips of a step as the plan has them; `num_real_global` as in `ReadStep`."""

    clips: PlannedClips
    located: ClipStrips
    num_real_global: int


@dataclass(frozen=True)
class ReadStep:
    """One rank's clips of a step, ready to be decoded.

    Attributes:
        clips: After replacement, N of them.
        located: Their strips and tiles within their samples.
        strips: int64 [N, S], strips of the index; -1 for a blank.
        jpegs: S lists of N pictures, uint8 [bytes] each, views of the mapped tars.
        num_replaced: Clips that are not the plan's because a sample is damaged.
        num_real_global: Clips of weight 1 that the plan has for this step, over all ranks.
    """

    step: int
    clips: PlannedClips
    located: ClipStrips
    strips: np.ndarray
    jpegs: list[list[np.ndarray]]
    num_replaced: int
    num_real_global: int
    work: ReadWork


class StepReader:
    """Reads one rank's share of a plan's steps.

    Args:
        rows: This rank's rows of each global batch.
        whole_strips: Name all tiles of a strip, for decoders that cannot decode a part.

    Attributes:
        bad: Rows of the index found damaged so far.
        num_slots: S, strips that a clip may need.
    """

    def __init__(self, index: ShardIndex, plan: Plan, *, rows: slice, whole_strips: bool) -> None:
        self.bad: set[int] = set()
        self.num_slots = max_slots(plan.stored_spec, index.layout)
        self._index, self._plan, self._rows, self._whole_strips = index, plan, rows, whole_strips
        self._strips = PictureReader(index)
        self._blank = np.frombuffer(blank_tile(index.layout), np.uint8)
        self._fetched: dict[int, PlannedStep] = {}  # not yet read

    def fetch(self, step: int) -> None:
        """Have the bytes of a step brought from disk while others are decoded; does not wait."""
        if self._plan.num_steps is not None and step >= self._plan.num_steps:
            return
        self._fetched[step] = planned = self._planned(step)
        strips = self._strips_of(planned.clips, planned.located)
        self._strips.fetch(strips[strips >= 0])

    def read(self, step: int) -> ReadStep:
        """Read a step; a sample whose bytes fail their checksum is replaced, and remembered as bad.

        Raises:
            LoaderError: A hundred samples in a row are bad.
        """
        planned = self._fetched.pop(step) if step in self._fetched else self._planned(step)
        clips, located = planned.clips, planned.located
        attempts, blank = np.zeros(len(clips), int), np.zeros(len(clips), bool)
        while True:
            if self._replace_bad(clips, attempts, blank):
                located = self._locate(clips, blank)
            strips = self._strips_of(clips, located)
            used = strips >= 0  # [N, S]
            found = iter(self._strips.read(strips[used]))  # clip by clip, slot by slot
            pictures = [[next(found) if need else self._blank for need in needs] for needs in used.tolist()]
            damaged = [n for n, own in enumerate(pictures) if any(picture is None for picture in own)]
            if not damaged:
                break
            self.bad.update(clips.sample[damaged].tolist())
        work = ReadWork(
            num_clips=len(clips),
            num_frames=located.order.size,
            num_pictures=int(used.sum()),
            num_frames_decoded=int((located.last_tile - located.first_tile)[used].sum()),
            num_bytes=int(self._index.pictures.size[strips[used]].sum()),
        )
        jpegs = [list(slot) for slot in zip(*pictures, strict=True)]
        num_replaced = int((attempts > 0).sum())
        return ReadStep(step, clips, located, strips, jpegs, num_replaced, planned.num_real_global, work)

    def find_undecodable(self, steps: range) -> bool:
        """Mark the samples of some steps that are not pictures of the right size; True when there are any new ones."""
        before = len(self.bad)
        for step in steps:
            read = self.read(step)
            for sample, strips in zip(read.clips.sample, read.strips, strict=True):
                if any(not self._decodes(int(strip)) for strip in strips if strip >= 0):
                    self.bad.add(int(sample))
        return len(self.bad) > before

    def _planned(self, step: int) -> PlannedStep:
        """This rank's clips of a step, in arrays of their own."""
        planned = self._plan.batch(step)
        clips = PlannedClips(**{name: value.copy() for name, value in vars(planned[self._rows]).items()})
        located = self._locate(clips, np.zeros(len(clips), bool))
        return PlannedStep(clips, located, num_real_global=int(planned.weight.sum()))

    def _locate(self, clips: PlannedClips, blank: np.ndarray) -> ClipStrips:
        """Strips, tiles and order of some clips; `blank` ones need none."""
        frames = frame_indices(clips.start, self._plan.stored_spec, video_frames=self._index.num_frames[clips.sample])
        located = clip_strips(frames, self._index.layout, num_slots=self.num_slots, whole_strips=self._whole_strips)
        if not blank.any():
            return located
        hidden = blank[:, None]
        return replace(
            located,
            strips=np.where(hidden, -1, located.strips),
            first_tile=np.where(hidden, 0, located.first_tile),
            last_tile=np.where(hidden, 1, located.last_tile),
            order=np.where(hidden, 0, located.order),
        )

    def _strips_of(self, clips: PlannedClips, located: ClipStrips) -> np.ndarray:
        """Strips of the index: int64 [N, S], -1 for a blank."""
        first = self._index.pictures.first[clips.sample][:, None]
        return np.where(located.strips >= 0, first + located.strips, -1)

    def _replace_bad(self, clips: PlannedClips, attempts: np.ndarray, blank: np.ndarray) -> bool:
        """Put good samples in the place of those known as bad; a clip that nothing may stand in for becomes blank.

        Returns:
            Whether there was any.
        """
        if not self.bad:
            return False
        known = np.flatnonzero(np.isin(clips.sample, list(self.bad)) & ~blank).tolist()
        for n in known:
            while not blank[n] and int(clips.sample[n]) in self.bad:
                attempts[n] += 1
                blank[n] = not self._replace(clips, n, attempt=int(attempts[n]))
        return bool(known)

    def _replace(self, clips: PlannedClips, n: int, *, attempt: int) -> bool:
        """Put the plan's next sample in the place of a bad one; False, and no weight, where nothing may stand in."""
        if attempt > MAX_REPLACEMENTS:
            raise LoaderError(
                f"{self._index.data_dir}: {MAX_REPLACEMENTS} samples in a row are damaged; run tools/check_shards.py"
            )
        sample = self._plan.replacement(int(clips.position[n]), attempt)
        if sample is None:
            clips.weight[n] = 0
            return False
        clips.sample[n] = sample
        # The draw stays; it is folded into what the other sample has room for.
        clips.start[n] %= num_starts(self._plan.stored_spec, video_frames=self._index.num_frames[sample])
        content = self._index.content[sample : sample + 1]
        down, sideways = crop_room(content, self._plan.spec, stored_size=self._index.size)
        clips.top[n] %= down[0]
        clips.left[n] %= sideways[0]
        return True

    def _decodes(self, strip: int) -> bool:
        layout = self._index.layout
        try:
            picture = simplejpeg.decode_jpeg(self._strips.read_one(strip))
        except ValueError:
            return False
        return picture.shape == (layout.strip_height, layout.tile_width, 3)
