"""The bytes of a step: which pictures its clips need, read and checked, with good samples in the place of bad ones."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import partial

import numpy as np

from pipeline.clip import frame_indices, num_starts
from pipeline.errors import UserError
from pipeline.filmstrip import ClipStrips, clip_strips, max_slots
from pipeline.h264.packets import ClipPackets, clip_packets
from pipeline.picture_reader import PictureReader
from pipeline.plan import Plan, PlannedClips, crop_room
from pipeline.shard import PICTURE_NAMES, ShardError, ShardIndex

Located = ClipStrips | ClipPackets
MAX_REPLACEMENTS = 100  # bad samples in a row before the data as a whole is called broken
UNDECODABLE = "it does not decode"  # why a clip is damaged, where no picture of it is


class LoaderError(UserError):
    """The loader cannot go on; the message is one line."""


@dataclass(frozen=True)
class ReadWork:
    """What some clips cost to read.

    Attributes:
        num_frames: Delivered.
        num_pictures: Given to the decoder: strips, or packets of a video.
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
    located: Located
    num_real_global: int


@dataclass(frozen=True)
class ReadStep:
    """One rank's clips of a step, ready to be decoded.

    Attributes:
        clips: After replacement, N of them.
        located: Their pictures within their samples, and their frames within those.
        owner: int64 [M], the clip that each picture belongs to, rising.
        data: M pictures, uint8 [bytes] each.
        num_replaced: Clips that are not the plan's because a sample is damaged.
        damaged: Row of each of those samples -> why.
        num_real_global: Clips of weight 1 that the plan has for this step, over all ranks.
    """

    step: int
    clips: PlannedClips
    located: Located
    owner: np.ndarray
    data: list[np.ndarray]
    num_replaced: int
    damaged: dict[int, str]
    num_real_global: int
    work: ReadWork

    def data_of_clips(self) -> list[list[np.ndarray]]:
        """The pictures of each of the N clips."""
        return [self.data[part] for part in parts_of_clips(self.owner, num_clips=len(self.clips))]


def parts_of_clips(owner: np.ndarray, *, num_clips: int) -> list[slice]:
    """Which of the pictures are each clip's.

    >>> parts_of_clips(np.array([0, 0, 2]), num_clips=3)
    [slice(0, 2, None), slice(2, 2, None), slice(2, 3, None)]
    """
    ends = np.searchsorted(owner, np.arange(num_clips + 1)).tolist()
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


class StepReader:
    """Reads one rank's share of a plan's steps.

    A clip is damaged if one of its own pictures is, whatever is known of its sample from other clips. So what takes its
    place is the same on every rank, and after any stop.

    Args:
        rows: This rank's rows of each global batch.
        whole_strips: Name all tiles of a strip, for decoders that cannot decode a part.

    Attributes:
        bad: Rows of the index of which some clip was damaged so far.
    """

    def __init__(self, index: ShardIndex, plan: Plan, *, rows: slice, whole_strips: bool) -> None:
        self.bad: set[int] = set()
        self._damaged: dict[tuple[int, ...], str] = {}  # the pictures of a clip -> why
        self._index, self._plan, self._rows = index, plan, rows
        self._picture, self._pictures = PICTURE_NAMES[index.codec], PictureReader(index)
        self._ahead = None if index.store is None else index.store.ahead(plan, rows=rows)
        self._fetched: dict[int, PlannedStep] = {}  # not yet read
        self._reading: tuple[int, np.ndarray] = (0, np.zeros(0, int))  # step, sample of each of its pictures
        self._locate_frames: Callable[..., Located]
        if index.codec == "h264":
            self._locate_frames = partial(clip_packets, gop_size=index.gop_size)
        else:
            num_slots = max_slots(plan.stored_spec, index.layout)
            self._locate_frames = partial(
                clip_strips, layout=index.layout, num_slots=num_slots, whole_strips=whole_strips
            )

    def start(self, step: int) -> None:
        """Begin to fetch what the steps from `step` on need, where the tars are elsewhere."""
        self._pictures.stop.clear()
        if self._ahead is not None:
            self._ahead.start(step)

    def stop(self) -> None:
        """End that, and any wait for a tar in another thread."""
        self._pictures.stop.set()
        if self._ahead is not None:
            self._ahead.end()

    def fetch(self, step: int) -> None:
        """Have the bytes of a step brought from disk while others are decoded; does not wait."""
        if self._plan.num_steps is not None and step >= self._plan.num_steps:
            return
        self._fetched[step] = planned = self._planned(step)
        pictures, owner = self._pictures_of(planned.clips, planned.located)
        self._reading = step, planned.clips.sample[owner]
        self._pictures.fetch(pictures)

    def read(self, step: int) -> ReadStep:
        """Read a step; a sample with a damaged picture is replaced, and remembered as bad.

        Raises:
            LoaderError: A hundred samples in a row are bad, or a remote tar cannot be fetched.
        """
        if self._ahead is not None:
            self._ahead.move(step)
        planned = self._fetched.pop(step) if step in self._fetched else self._planned(step)
        clips, located = planned.clips, planned.located
        attempts, blank = np.zeros(len(clips), int), np.zeros(len(clips), bool)
        replaced: dict[int, str] = {}
        while True:
            pictures, owner = self._pictures_of(clips, located)
            self._reading = step, clips.sample[owner]
            damaged = self._known_damaged(pictures, owner, num_clips=len(clips))
            if not damaged:
                try:
                    found = self._pictures.read_or_fault(pictures)
                except ShardError as error:
                    raise LoaderError(str(error)) from None
                data = [picture for picture in found if not isinstance(picture, str)]
                if len(data) == len(found):
                    break
                faults = zip(owner.tolist(), found, strict=True)
                damaged = {n: f"a {self._picture} {fault}" for n, fault in faults if isinstance(fault, str)}
                self._remember(damaged, clips, pictures, owner)
            for n, why in damaged.items():
                replaced[int(clips.sample[n])] = why
                attempts[n] += 1
                blank[n] = not self._replace(clips, n, attempt=int(attempts[n]))
            located = self._locate(clips, blank)
        work = ReadWork(
            num_clips=len(clips),
            num_frames=located.order.size,
            num_pictures=len(pictures),
            num_frames_decoded=located.num_frames_decoded,
            num_bytes=int(self._index.pictures.size[pictures].sum()),
        )
        num_replaced = int((attempts > 0).sum())
        self._index.give_back_pages()
        return ReadStep(step, clips, located, owner, data, num_replaced, replaced, planned.num_real_global, work)

    def whereabouts(self) -> str | None:
        """What the reader is at, without a look at a disk that may hang; None for a remote tar, which has a limit."""
        if self._pictures.is_fetching:
            return None
        at, (step, samples) = self._pictures.at, self._reading
        if at is None:
            return f"decoding, after reading step {step}"
        return f"reading {self._index.tars[at[0]]} for step {step}, row {samples[at[1]]} of the index"

    def find_undecodable(self, steps: Iterable[int], *, decodes: Callable[[list[np.ndarray]], bool]) -> bool:
        """Remember the clips of some steps that are not pictures; True when there are any new ones.

        Args:
            decodes: Whether the pictures of a clip do.
        """
        before = len(self._damaged)
        for step in steps:
            read = self.read(step)
            self.add_undecodable(read, [n for n, data in enumerate(read.data_of_clips()) if data and not decodes(data)])
        return len(self._damaged) > before

    def add_undecodable(self, read: ReadStep, clips: Iterable[int]) -> None:
        """Remember that some clips of a step do not decode; read again, it has others in their place."""
        pictures, _ = self._pictures_of(read.clips, read.located)
        self._remember(dict.fromkeys(clips, UNDECODABLE), read.clips, pictures, read.owner)

    def _planned(self, step: int) -> PlannedStep:
        """This rank's clips of a step, in arrays of their own."""
        planned = self._plan.batch(step)
        clips = PlannedClips(**{name: value.copy() for name, value in vars(planned[self._rows]).items()})
        located = self._locate(clips, np.zeros(len(clips), bool))
        return PlannedStep(clips, located, num_real_global=int(planned.weight.sum()))

    def _locate(self, clips: PlannedClips, blank: np.ndarray) -> Located:
        """Where the frames of some clips are; `blank` ones need none."""
        frames = frame_indices(clips.start, self._plan.stored_spec, video_frames=self._index.num_frames[clips.sample])
        return self._locate_frames(frames, blank=blank)

    def _pictures_of(self, clips: PlannedClips, located: Located) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the index's pictures, and the clip that each belongs to: int64 [M] both."""
        return located.pictures(self._index.pictures.first[clips.sample])

    def _known_damaged(self, pictures: np.ndarray, owner: np.ndarray, *, num_clips: int) -> dict[int, str]:
        """The clips that are known to be damaged -> why."""
        if not self._damaged:
            return {}
        parts = enumerate(parts_of_clips(owner, num_clips=num_clips))
        return {n: self._damaged[own] for n, part in parts if (own := tuple(pictures[part].tolist())) in self._damaged}

    def _remember(self, damaged: dict[int, str], clips: PlannedClips, pictures: np.ndarray, owner: np.ndarray) -> None:
        """That some clips, -> why, are damaged."""
        parts = parts_of_clips(owner, num_clips=len(clips))
        self._damaged |= {tuple(pictures[parts[n]].tolist()): why for n, why in damaged.items()}
        self.bad.update(clips.sample[list(damaged)].tolist())

    def _replace(self, clips: PlannedClips, n: int, *, attempt: int) -> bool:
        """Put the plan's next sample in the place of a bad one; False, and no weight, where nothing may stand in."""
        if attempt > MAX_REPLACEMENTS:
            place = getattr(self._index.store, "url", self._index.data_dir)
            raise LoaderError(f"{place}: {MAX_REPLACEMENTS} samples in a row are damaged; run tools/check_shards.py")
        sample = self._plan.replacement(int(clips.position[n]), attempt)
        if sample is None:
            clips.weight[n] = 0
            return False
        clips.sample[n] = sample
        # The draw stays; it is folded into what the other sample has room for.
        start = int(clips.start[n] % num_starts(self._plan.stored_spec, video_frames=self._index.num_frames[sample]))
        clips.start[n] = start - start % self._plan.start_step
        content = self._index.content[sample : sample + 1]
        down, sideways = crop_room(content, self._plan.spec, stored_size=self._index.size)
        clips.top[n] %= down[0]
        clips.left[n] %= sideways[0]
        return True
