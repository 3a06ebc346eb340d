"""The bytes of a step: the stored frames that its clips need, read and checked, good samples in the place of bad ones.

A checksum finds damage, not intent: whoever writes a tar writes its checksums too. So memory is bounded before anything
is read, and no decoder is given a header that is not the dataset's own.
"""

import errno
import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from io import FileIO

import numpy as np
from isal import isal_zlib  # zlib's crc32 by vector instructions, at three times its speed and more

from res3d_video.pipeline.clip import frame_indices
from res3d_video.pipeline.codecs import ClipFrames, UndecodableError
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.files import open_plain
from res3d_video.pipeline.index import ShardError, ShardIndex
from res3d_video.pipeline.plan import Plan, PlannedClips
from res3d_video.pipeline.schema import CRC32, OFFSET, SIZE

MOST_FILES, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
MAX_OPEN_TARS = 16_384 if MOST_FILES < 0 else min(16_384, MOST_FILES // 2)  # half is for the rest of the program
MAX_REPLACEMENTS = 100  # bad samples in a row before the data as a whole is called broken
MAX_FETCH_GAP = 2**17  # bytes between two frames of a clip that are fetched with them
UNDECODABLE = "it does not decode"  # why a clip is damaged, where none of its frames is
CAN_FETCH = hasattr(os, "posix_fadvise")  # macOS has none
MISSING = "a frame is missing or fails its crc32"


class LoaderError(UserError):
    """The loader cannot go on; the message is one line."""


@dataclass(frozen=True)
class ReadWork:
    """What some clips cost to read."""

    num_clips: int = 0
    num_frames: int = 0  # delivered
    num_pictures: int = 0  # given to the decoder: JPEGs, or packets of a video
    num_frames_decoded: int = 0
    num_bytes: int = 0  # compressed
    num_cache_hits: int = 0  # these two of shards behind a URL: tars that were in the cache when they were needed,
    num_cache_misses: int = 0  # and tars that were waited for

    @property
    def decoded_to_used(self) -> float:
        """Frames decoded for each one delivered."""
        return self.num_frames_decoded / self.num_frames

    def __add__(self, other: "ReadWork") -> "ReadWork":
        return ReadWork(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: "ReadWork") -> "ReadWork":
        return ReadWork(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class ReadStep:
    """One rank's clips of a step after replacement, ready to be decoded; `loader.Batch` has the other attributes.

    Where a plan takes C crops of the same frames, `located` and `data` have one entry for each C of `clips`.
    """

    step: int
    clips: PlannedClips
    located: ClipFrames
    data: list[list[np.ndarray]]  # what a decoder takes of each: one JPEG, or packets; uint8 [bytes] each
    num_replaced: int
    damaged: dict[int, str]
    num_real_global: int
    work: ReadWork


@dataclass(frozen=True)
class Places:
    """Where the stored frames of some clips lie, M in all, int64 [M] each."""

    owner: np.ndarray  # the clip that each belongs to, rising
    tar: np.ndarray
    offset: np.ndarray  # in the tar
    size: np.ndarray
    crc32: np.ndarray


class FrameFiles:
    """Reads stored frames of an index, those of many clips at a time.

    Other threads set `stop` to end a wait for a remote tar, and look at `is_fetching` and `at`, the tar and sample that
    `read` or `fetch` is at. `num_tars` counts the remote tars that each `read` needed, `num_tars_missing` those that it
    waited for.

    Args:
        whole_tars: Tars of a remote dataset are fetched whole and kept, as training wants it, which comes again; else
            parts of those that the cache lacks are read, and not kept.
    """

    def __init__(self, index: ShardIndex, *, whole_tars: bool = False) -> None:
        self._index, self._codec, self._whole_tars = index, index.stored_as, whole_tars or index.store is None
        self._tars: OrderedDict[int, tuple[FileIO, int]] = OrderedDict()  # with their sizes; the last used at the end
        self.stop = threading.Event()
        self.at: tuple[int, int] | None = None
        self.is_fetching = False
        self.num_tars = self.num_tars_missing = 0

    def read(
        self, samples: np.ndarray, located: ClipFrames, places: Places | None = None
    ) -> tuple[list[list[np.ndarray]], dict[int, str]]:
        """The frames of N clips, each clip as a decoder takes it; or which of the clips are damaged, and why.

        Args:
            samples: int64 [N], row of the index of each clip.

        Raises:
            ShardError: A remote tar cannot be fetched, or the system refuses to open another file.
        """
        places = places or self.places(samples, located)
        data, damaged = self._read(samples, located, places)
        if damaged and not self._whole_tars:  # a second answer of the server may be right, as with whole tars
            data, damaged = self._read(samples, located, places)
        return data, damaged

    def _read(
        self, samples: np.ndarray, located: ClipFrames, places: Places
    ) -> tuple[list[list[np.ndarray]], dict[int, str]]:
        """`read`, once."""
        codec = self._codec
        owner, size = places.owner, places.size
        wrong = (size < 1) | (size > codec.max_frame_bytes)  # before memory is taken for what a damaged index claims
        if wrong.any():
            return [], dict.fromkeys(owner[wrong].tolist(), MISSING)
        room = size + codec.gap
        not_blank = np.cumsum(located.count > 0)
        begin = np.cumsum(room) - room + codec.lead * not_blank[owner]
        buffer = np.empty(int(room.sum()) + codec.lead * int(not_blank[-1]), np.uint8)
        view = buffer.data
        if missing := self._read_runs(places, samples, room, begin, view):
            return [], dict.fromkeys(missing, MISSING)
        frames = list(map(view.__getitem__, map(slice, begin.tolist(), (begin + size).tolist())))
        wrong = np.array(list(map(isal_zlib.crc32, frames)), np.int64) != places.crc32
        if wrong.any():
            return [], dict.fromkeys(owner[wrong].tolist(), MISSING)
        if bad := codec.faults(frames, located.rows):
            return [], {int(owner[i]): f"a frame {why}" for i, why in bad.items()}
        return codec.assemble(buffer, begin, size, located), {}

    def _read_runs(
        self, places: Places, samples: np.ndarray, room: np.ndarray, begin: np.ndarray, view: memoryview
    ) -> list[int]:
        """Read frames into a buffer, those of a clip that lie side by side at once; returns the clips where that fails.

        Args:
            room: int64 [M], bytes to read of each: its own and those up to the next.
            begin: int64 [M], where they go.
        """
        if not len(places.owner):
            return []  # all clips are blank
        owner, offset, end = places.owner, places.offset, places.offset + room
        order = np.lexsort((offset, owner))  # as the frames of each clip lie in its tar
        is_first = np.ones(len(order), bool)  # of a run that is read at once
        is_first[1:] = (offset[order][1:] != end[order][:-1]) | (np.diff(owner) != 0)
        is_apart = is_first.copy()  # from the one before it, in the buffer
        is_apart[1:] |= np.diff(order) != 1
        piece = np.flatnonzero(is_apart)
        starts, stops = begin[order[piece]], (begin + room)[order[np.append(piece[1:], len(order)) - 1]]
        pieces = [view[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]
        first = np.flatnonzero(is_first)
        piece_of_run = [*np.searchsorted(piece, first).tolist(), len(piece)]
        leads = order[first]
        at, tars, clips = offset[leads].tolist(), places.tar[leads].tolist(), owner[leads].tolist()
        sizes = np.add.reduceat(room[order], first).tolist()
        rows, missing, runs, away = samples[clips].tolist(), [], list(range(len(first))), list[int]()
        if self._index.store is not None:
            runs.sort(key=tars.__getitem__)  # only one tar is open at a time
        before = -1
        for run in runs:
            if self._index.store is not None and tars[run] != before:
                before = tars[run]
                self.num_tars += 1
                self.num_tars_missing += before not in self._tars and not self._index.store.is_here(before)
            self.at = tars[run], rows[run]
            opened = self._tar(tars[run], wait=self._whole_tars)
            if opened is None and not self._whole_tars and 0 <= tars[run] < len(self._index.tars):
                away.append(run)
                continue
            into = pieces[piece_of_run[run] : piece_of_run[run + 1]]
            if opened is None or not read_into(opened, at[run], into, size=sizes[run]):
                missing.append(clips[run])
        self.at = None
        if away and self._index.store is not None:
            self.is_fetching = True
            try:
                where = ([numbers[run] for run in away] for numbers in (tars, at, sizes))
                parts = self._index.store.read_parts(*where, stop=self.stop)
            finally:
                self.is_fetching = False
            for run, part in zip(away, parts, strict=True):
                if part is None:
                    missing.append(clips[run])
                    continue
                for piece_view in pieces[piece_of_run[run] : piece_of_run[run + 1]]:
                    piece_view[:], part = part[: len(piece_view)], part[len(piece_view) :]
        return missing

    def fetch(self, samples: np.ndarray, located: ClipFrames) -> Places:
        """Ask the system to bring frames from disk, and do not wait; returns where they lie."""
        places = self.places(samples, located)
        end = places.offset + places.size + self._codec.gap
        breaks = np.ones(len(end), bool)
        breaks[1:] = np.diff(places.owner) != 0
        breaks[1:] |= (places.offset[1:] < places.offset[:-1]) | (places.offset[1:] > end[:-1] + MAX_FETCH_GAP)
        first = np.flatnonzero(breaks)
        last = np.append(first[1:], len(end)) - 1
        if self._index.store is not None:  # only one tar is open at a time
            order = np.argsort(places.tar[first], kind="stable")
            first, last = first[order], last[order]
        tars, sample = places.tar[first].tolist(), samples[places.owner[first]].tolist()
        for tar, n, a, b in zip(tars, sample, places.offset[first].tolist(), end[last].tolist(), strict=True):
            self.at = tar, n
            opened = self._tar(tar, wait=False)
            if opened is not None and 0 <= a < b <= opened[1] and CAN_FETCH:
                os.posix_fadvise(opened[0].fileno(), a, b - a, os.POSIX_FADV_WILLNEED)
        self.at = None
        return places

    def places(self, samples: np.ndarray, located: ClipFrames) -> Places:
        """Where the frames of some clips lie."""
        rows, clips = self._index.rows, np.flatnonzero(located.count)
        owner, tar, offset = np.repeat(np.arange(len(samples)), located.count), rows["tar"], rows["offset"]
        ends = np.cumsum(located.count[clips])
        begins = ends - located.count[clips]
        # Each clip's rows are read at once, and those between them.
        low = np.minimum.reduceat(located.rows, begins) if len(clips) else begins
        high = np.maximum.reduceat(located.rows, begins) + 1 if len(clips) else begins
        found = rows["frames"].take(rows["first_frame"].take(samples[clips]) + low, high - low)
        before = np.cumsum(high - low) - (high - low) - low  # from a clip's row in its sample to that in `found`
        frames = found[np.repeat(before, located.count[clips]) + located.rows].astype(np.int64)
        return Places(
            owner,
            tar.take(samples).astype(np.int64)[owner],
            offset.take(samples)[owner] + frames[:, OFFSET],
            frames[:, SIZE],
            frames[:, CRC32],
        )

    def _tar(self, number: int, *, wait: bool = True) -> tuple[FileIO, int] | None:
        """A tar and its size, if `wait` fetched from where it is; None if there is none, which damages its samples."""
        if number in self._tars:
            self._tars.move_to_end(number)
            return self._tars[number]
        if not 0 <= number < len(self._index.tars):
            return None
        if self._index.store is not None:
            while self._tars:
                self._tars.popitem()[1][0].close()  # a tar that is open cannot leave the cache
        self.is_fetching = wait and self._index.store is not None
        try:
            file = open_tar(self._index, number, stop=self.stop, wait=wait)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                return None
            where = f"{self._index.tars[number]}: {error.strerror}"
            raise ShardError(f"{where}; raise the limit of open files (ulimit -n)") from None
        finally:
            self.is_fetching = False
        if file is None:
            return None
        self._tars[number] = file, os.fstat(file.fileno()).st_size
        if len(self._tars) > MAX_OPEN_TARS:
            self._tars.popitem(last=False)
        return self._tars[number]


def open_tar(
    index: ShardIndex, number: int, *, stop: threading.Event | None = None, wait: bool = True
) -> FileIO | None:
    """A tar of an index, fetched where it is remote (`RemoteTars.open`); None for one that its store cannot give.

    Raises:
        OSError: It is not there.
        ShardError: Its server is gone.
    """
    if index.store is None:
        return FileIO(open_plain(index.data_dir / index.tars[number]))
    return index.store.open(number, stop=stop or threading.Event(), wait=wait)


def read_into(opened: tuple[FileIO, int], offset: int, pieces: list[memoryview], *, size: int) -> bool:
    """Fill pieces of memory, `size` bytes in all, from one place of a file; False where they cannot be read.

    Other threads run while the disk is waited for.
    """
    if offset + size > opened[1]:
        return False
    while size:
        try:
            count = os.preadv(opened[0].fileno(), pieces, offset)
        except OSError:
            return False
        if not count:
            return False
        offset, size = offset + count, size - count
        while size and count >= len(pieces[0]):  # what some file systems give is less than they were asked for
            count -= len(pieces.pop(0))
        pieces[0] = pieces[0][count:]
    return True


class StepReader:
    """Reads one rank's share of a plan's steps.

    A clip is damaged if one of its own frames is, whatever is known of its sample from other clips. So what takes its
    place is the same on every rank, and after any stop.

    Args:
        rows: This rank's rows of each global batch.
        read_ahead: The disk is asked for the bytes of so many steps before they are read.

    Attributes:
        bad: Rows of the index of which some clip was damaged so far.
    """

    def __init__(self, index: ShardIndex, plan: Plan, *, rows: slice, read_ahead: int = 0) -> None:
        self._index, self._plan, self._rows, self._codec = index, plan, rows, index.stored_as
        if (rows.stop - rows.start) % plan.num_crops:
            raise ValueError(f"{rows} must be whole groups of {plan.num_crops} crops")
        self._read_ahead, self._furthest = read_ahead, 0  # the last step that the disk was asked for
        if plan.spec.num_frames > self._codec.max_frames:
            most = f"<= {self._codec.max_frames} with frames of {self._codec.tile_height} pixels, a clip being one JPEG"
            raise UserError(
                f"num_frames must be {most}; got {plan.spec.num_frames}; choose fewer, or shards of a smaller --size"
            )
        self.bad: set[int] = set()
        self._undecodable: set[bytes] = set()  # frames of a clip, as rows of the index
        is_endless = plan.num_steps is None
        self._files = FrameFiles(index, whole_tars=is_endless)
        self._ahead = index.store.prefetcher(plan, rows=rows) if index.store is not None and is_endless else None
        self._fetched: dict[int, tuple[PlannedClips, ClipFrames, Places | None, int]] = {}  # not yet read
        self._step = 0

    def start(self, step: int) -> None:
        """Begin to fetch what the steps from `step` on need."""
        self._files.stop.clear()
        self._fetched.clear()
        self._furthest = step
        if self._ahead is not None:
            self._ahead.start(step)

    def stop(self) -> None:
        """End that, and any wait for a tar in another thread."""
        self._files.stop.set()
        if self._ahead is not None:
            self._ahead.end()

    def fetch(self, step: int) -> None:
        """Have the bytes of a step brought from disk while others are decoded; does not wait."""
        if self._plan.num_steps is not None and step >= self._plan.num_steps:
            return
        self._step = step
        clips, located, _, num_real_global = self._planned(step)
        places = self._files.fetch(clips.sample[:: self._plan.num_crops], located)
        self._fetched[step] = clips, located, places, num_real_global

    def read(self, step: int) -> ReadStep:
        """Read a step; a clip with a damaged frame is replaced, and its sample remembered as bad.

        Raises:
            LoaderError: A hundred samples in a row are bad, or a remote tar cannot be fetched.
        """
        if self._ahead is not None:
            self._ahead.move(step)
        for later in range(max(self._furthest, step) + 1, step + self._read_ahead + 1):
            self.fetch(later)
            self._furthest = later
        self._step = step
        planned = self._fetched.pop(step) if step in self._fetched else self._planned(step)
        every_crop, located, places, num_real_global = planned
        num_crops = self._plan.num_crops
        clips = every_crop[::num_crops]  # views, so what is changed in them is changed there
        attempts, blank = np.zeros(len(clips), int), np.zeros(len(clips), bool)
        damaged: dict[int, str] = {}
        num_tars, num_missing = self._files.num_tars, self._files.num_tars_missing
        while True:
            keys = self._keys(clips, located) if self._undecodable else []
            faults = {n: UNDECODABLE for n, key in enumerate(keys) if key in self._undecodable}
            if not faults:
                places = places or self._files.places(clips.sample, located)
                num_bytes = int(places.size.sum())
                try:
                    data, faults = self._files.read(clips.sample, located, places)
                except ShardError as error:
                    raise LoaderError(str(error)) from None
            if not faults:
                break
            for n, why in faults.items():
                damaged[int(clips.sample[n])] = why
                attempts[n] += 1
                blank[n] = not self._replace(clips, n, attempt=int(attempts[n]))
                every_crop.weight[n * num_crops : (n + 1) * num_crops] = clips.weight[n]
            located, places = self._locate(clips, blank), None
        self.bad.update(damaged)
        work = ReadWork(
            num_clips=len(clips),
            num_frames=located.order.size,
            num_pictures=sum(len(own) for own, count in zip(data, located.count, strict=True) if count),
            num_frames_decoded=len(located.rows),
            num_bytes=num_bytes,
            num_cache_hits=self._files.num_tars - num_tars - self._files.num_tars_missing + num_missing,
            num_cache_misses=self._files.num_tars_missing - num_missing,
        )
        num_replaced = int((attempts > 0).sum())
        return ReadStep(step, every_crop, located, data, num_replaced, damaged, num_real_global, work)

    def whereabouts(self) -> str | None:
        """What the reader is at, without a look at a disk that may hang; None for a remote tar, which has a limit."""
        if self._files.is_fetching:
            return None
        if self._files.at is None:
            return f"decoding, after reading step {self._step}"
        tar, sample = self._files.at
        return f"reading {self._index.tars[tar]} for step {self._step}, row {sample} of the index"

    def find_undecodable(self, steps: Iterable[int]) -> bool:
        """Remember the clips of some steps that do not decode; True when there are any new ones."""
        before = len(self._undecodable)
        for step in steps:
            read, bad = self.read(step), []
            for n, data in enumerate(read.data):
                try:
                    self._codec.decode(data)
                except UndecodableError:
                    bad.append(n)
            self.add_undecodable(read, bad)
        return len(self._undecodable) > before

    def add_undecodable(self, read: ReadStep, clips: Iterable[int]) -> None:
        """Remember that some clips of a step do not decode; read again, it has others in their place."""
        keys = self._keys(read.clips[:: self._plan.num_crops], read.located)
        self._undecodable.update(keys[n] for n in clips)

    def _planned(self, step: int) -> tuple[PlannedClips, ClipFrames, None, int]:
        """This rank's clips of a step, in arrays of their own, their frames, no places, and `num_real_global`."""
        planned = self._plan.batch(step)
        clips = PlannedClips(**{name: value.copy() for name, value in vars(planned[self._rows]).items()})
        located = self._locate(clips[:: self._plan.num_crops], np.zeros(len(clips) // self._plan.num_crops, bool))
        return clips, located, None, int(planned.weight.sum())

    def _locate(self, clips: PlannedClips, blank: np.ndarray) -> ClipFrames:
        """Where the frames of some clips are; `blank` ones need none."""
        frames = frame_indices(clips.start, self._plan.stored_spec, video_frames=self._index.num_frames[clips.sample])
        return self._codec.locate(frames, blank=blank)

    def _keys(self, clips: PlannedClips, located: ClipFrames) -> list[bytes]:
        """Names of clips: the rows of the index that each needs."""
        ends = np.cumsum(located.count)
        rows = self._index.first_frame[clips.sample][np.repeat(np.arange(len(clips)), located.count)] + located.rows
        return [rows[b - n : b].tobytes() for b, n in zip(ends.tolist(), located.count.tolist(), strict=True)]

    def _replace(self, clips: PlannedClips, n: int, *, attempt: int) -> bool:
        """Put the plan's next sample in the place of a bad one; False, and no weight, where nothing may stand in."""
        if attempt > MAX_REPLACEMENTS:
            raise LoaderError(
                f"{self._index.place}: {MAX_REPLACEMENTS} samples in a row are damaged; run tools/check_shards.py"
            )
        other = self._plan.replacement(clips[n : n + 1], attempt)
        if other is None:
            clips.weight[n] = 0
            return False
        for name, value in vars(other).items():
            getattr(clips, name)[n] = value[0]
        return True
