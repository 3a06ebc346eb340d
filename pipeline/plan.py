"""Which clips, in which order, on which rank: a pure function of (seed, position), in numpy only.

Training reads one endless stream of positions. Epoch e is the positions [eN, (e+1)N), shuffled anew, so every sample
comes once an epoch, a batch may span two epochs, and nothing is padded or dropped. The random numbers of a position
depend neither on the batch size nor on the number of ranks nor on what was read before, so a step number is all that
resuming needs.

With canonical groups every node reads only its own share of the tars: see `grouped_order`.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from res3d_video.pipeline.augment import DRAWN, NONE, WORDS, Augmentation, draw
from res3d_video.pipeline.clip import ClipSpec, num_starts, uniform_starts
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.settings import require_positive


def random_below(words: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Map random words uint64 [B] to integers in [0, bound) by their upper 32 bits; bound < 2**31.

    >>> random_below(np.array([0, 2**63, 2**64 - 1], np.uint64), np.array([10, 10, 10]))
    array([0, 5, 9])
    """
    return ((words >> np.uint64(32)) * bound.astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def window_order(tar: np.ndarray, *, window: int, random: np.random.Generator) -> np.ndarray:
    """Shuffle tars, then samples within each `window` of consecutive tars.

    Args:
        tar: int [N], which tar each sample lies in.

    Returns:
        int64 [N], a permutation; the samples of one window of tars come before those of the next.
    """
    present = np.zeros(int(tar.max()) + 1, bool)
    present[tar] = True
    turn = np.empty(len(present), np.int64)  # the window of each tar
    turn[present] = random.permutation(int(present.sum())) // window
    drawn = random.random(len(tar))
    turns = turn[tar]
    order = np.argsort(turns.astype(np.min_scalar_type(turns.max())), kind="stable")  # numpy sorts 16 bits by radix
    ends = np.cumsum(np.bincount(turns))
    for first, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        own = order[first:end]
        order[first:end] = own[np.argsort(drawn[own], kind="stable")]  # in pieces that fit into the CPU cache
    return order


def dealt(count: int, num_hands: int) -> np.ndarray:
    """0 … count - 1 dealt like cards to `num_hands`, which divides `count`; hand after hand: int64 [count].

    >>> dealt(6, 3)
    array([0, 3, 1, 4, 2, 5])
    """
    return np.arange(count, dtype=np.int64).reshape(-1, num_hands).T.ravel()


def grouped_order(
    tar_starts: np.ndarray, slots: np.ndarray, *, window: int | None, random: np.random.Generator
) -> np.ndarray:
    """The order of an epoch in C groups; each group fills its own positions with its own samples.

    The line, which is all N samples in the order of their tars, is cut into C pieces; the piece of a group is as long
    as the group has positions. Lengths differ by at most one, so no group needs samples of another; a tar at a cut
    belongs to two groups. Within a piece the tars are shuffled, and the samples of each tar are spread over the time of
    about `window` tars. So tars begin and end one by one, at other times in other groups, and at most `window` + 1 tars
    of a group are in use at a time.

    Args:
        tar_starts: int64 [num_tars + 1], where each tar begins in the line; the last is N.
        slots: int64 [C], a permutation; group g has the positions slots[g], slots[g] + C, … of the epoch.
        window: None shuffles all samples of a group.

    Returns:
        int64 [N], a permutation: the place in the line of the sample at each position.
    """
    num_samples, num_groups = int(tar_starts[-1]), len(slots)
    lengths = -(-(num_samples - slots) // num_groups)  # positions of each group
    cuts = np.cumsum(lengths)
    runs = np.unique(np.concatenate([tar_starts[:-1], cuts[cuts < num_samples]]))  # first samples of a tar in a group
    group = np.searchsorted(cuts, runs, side="right")
    if window is None:
        turn, window = group.astype(float), 1
    else:
        window = min(window, len(runs))
        turn = np.empty(len(runs))
        turn[np.lexsort((random.random(len(runs)), group))] = np.arange(len(runs)) + random.random(len(runs))
        turn += (window + 1) * group  # groups stay apart; within one, a tar follows about 1 after another
    when = np.repeat(turn, np.diff(runs, append=num_samples)) + window * random.random(num_samples)
    positions = (slots[:, None] + num_groups * np.arange(lengths.max())).ravel()
    order = np.empty(num_samples, np.int64)
    order[positions[positions < num_samples]] = np.argsort(when, kind="stable")
    return order


def compact(rows: np.ndarray) -> np.ndarray:
    """Rows as int32 if all fit, which takes half the memory; there may be millions."""
    return rows.astype(np.int32) if rows.max(initial=0) < 2**31 else rows


ORDER_STREAM, DRAW_STREAM, AUGMENT_STREAM = 0, 1, 2  # independent Philox streams under one (seed, epoch)
WORDS_PER_POSITION = 4  # 64-bit words that one Philox step gives: start, top, left; flip and label share the last
KEPT_ORDERS = 2  # a batch may span two epochs
LINE_KEY = 0  # of the order of tars in the line; the same for every seed, so that a cache serves many runs


@dataclass(frozen=True)
class PlannedClips:
    """Planned clips; every array is [B]."""

    position: np.ndarray  # int64, place in the plan's stream; -1 for padding
    sample: np.ndarray  # int64, row of the index
    start: np.ndarray  # int64, first frame of the clip, in stored frames
    view: np.ndarray  # int64, which of the sample's clips and crops; 0 in training
    top: np.ndarray  # int64, with `left` the corner of the crop in the content, pixels after resizing
    left: np.ndarray
    flip: np.ndarray  # bool, mirrored left to right
    weight: np.ndarray  # float32, 1; 0 for padding
    # uint64, whose upper 32 bits choose among a sample's labels; 0, the first, if not given
    label_draw: np.ndarray = None  # type: ignore[assignment]  # never after __post_init__
    augmented: np.ndarray = None  # type: ignore[assignment]  # augment.DRAWN; zeros, unused, where a plan draws none

    def __post_init__(self) -> None:
        for name, dtype in (("label_draw", np.dtype(np.uint64)), ("augmented", DRAWN)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.zeros(len(self.sample), dtype))

    def __len__(self) -> int:
        return len(self.sample)

    def __getitem__(self, rows: slice | np.ndarray) -> "PlannedClips":
        return PlannedClips(**{name: value[rows] for name, value in vars(self).items()})


class Plan(Protocol):
    """The part of a plan that the loader uses."""

    index: ShardIndex
    spec: ClipSpec
    stored_spec: ClipSpec
    global_batch_size: int
    augmentation: Augmentation
    num_crops: int  # C: each C consecutive rows of a batch are crops of the same frames
    canonical_groups: int  # 0 for none

    @property
    def num_steps(self) -> int | None:
        """Steps until the plan ends; None if it never does."""

    @property
    def identity(self) -> str:
        """A text that names everything the plan's clips depend on; a loader's state fits only the same plan."""

    def batch(self, step: int) -> PlannedClips:
        """The global batch of a step, of all ranks."""

    def replacement(self, clip: PlannedClips, attempt: int) -> PlannedClips | None:
        """The clip to read instead of one whose sample is damaged; None if nothing may replace it."""


def rank_rows(global_batch_size: int, *, rank: int, world_size: int, canonical_groups: int = 0) -> slice:
    """The rows of a global batch that belong to a rank; with groups, the rows of its groups.

    >>> rank_rows(12, rank=1, world_size=3)
    slice(4, 8, None)
    """
    if global_batch_size % world_size:
        raise UserError(
            f"global_batch_size: {global_batch_size} cannot be shared by {world_size} ranks; choose a multiple of it"
        )
    if rest := canonical_groups % world_size:
        up = 2 * rest >= world_size or canonical_groups < world_size
        raise UserError(
            f"canonical_groups: {canonical_groups} cannot be shared by {world_size} ranks; choose "
            f"{canonical_groups - rest + up * world_size}, or a number of ranks that divides {canonical_groups}"
        )
    if not 0 <= rank < world_size:
        raise UserError(f"rank: {rank} does not exist among {world_size}; choose 0 to {world_size - 1}")
    batch_size = global_batch_size // world_size
    return slice(rank * batch_size, (rank + 1) * batch_size)


def stored_clip(spec: ClipSpec, *, frame_step: int) -> ClipSpec:
    """The clip in units of stored frames, which may be every second one (`ShardIndex.frame_step`)."""
    if spec.frame_stride % frame_step:
        raise UserError(
            f"frame_stride: {spec.frame_stride} needs frames that these shards dropped; choose a multiple of "
            f"{frame_step} or make the shards without --drop-odd"
        )
    return replace(spec, frame_stride=spec.frame_stride // frame_step)


def picture_sizes(content: np.ndarray, spec: ClipSpec, *, stored_size: int) -> np.ndarray:
    """Height and width of pictures after resizing, pixels: int64 [N, 2].

    Args:
        content: int [N, 4], left, top, width, height of each picture in its tile, stored pixels.
        stored_size: The size that `spec.resize` replaces.

    Raises:
        UserError: A picture is smaller than the crop.

    >>> picture_sizes(np.array([[0, 0, 171, 128]]), ClipSpec(crop_size=56, resize=64), stored_size=128)
    array([[64, 85]])
    """
    sizes = content[:, [3, 2]].astype(np.int64)
    if spec.resize is not None:
        sizes = sizes * spec.resize // stored_size
    if (smallest := sizes.min(initial=spec.crop_size)) < spec.crop_size:
        raise UserError(
            f"crop_size: {spec.crop_size} does not fit a picture of {smallest} pixels; choose at most that, "
            "a larger --resize, or make the shards with a larger --size"
        )
    return sizes


class _SomeSamples:
    """Base of both plans: rows of an index, one clip spec and a global batch size."""

    augmentation, num_crops, canonical_groups = NONE, 1, 0

    def __init__(self, index: ShardIndex, samples: np.ndarray, spec: ClipSpec, global_batch_size: int) -> None:
        require_positive(global_batch_size=global_batch_size)
        self.index, self.spec, self.global_batch_size = index, spec, global_batch_size
        self.stored_spec = stored_clip(spec, frame_step=index.frame_step)
        self._samples = compact(np.asarray(samples, np.int64))
        self._rows = np.arange(global_batch_size, dtype=np.int64)
        self._sizes(self._samples)  # raises here and not in mid-epoch

    def _positions(self, step: int) -> np.ndarray:
        """Positions in the stream of each row of a step's global batch: int64 [B]."""
        return step * self.global_batch_size + self._rows

    def _sizes(self, samples: np.ndarray) -> np.ndarray:
        return picture_sizes(self.index.content[samples], self.spec, stored_size=self.index.size)


class TrainPlan(_SomeSamples):
    """Endless random clips: random start, crop and flip for every sample of every epoch.

    Args:
        samples: Rows of the index to train on.
        seed: Seed of everything random.
        flip: Mirror half of the clips.
        shuffle_window: None shuffles all samples; W shuffles the tars, then the samples within each W tars, for disks
            that read faster in sequence and caches smaller than the data. With groups, W tars of each group.
        canonical_groups: C groups of tars, for shards behind a URL; 0 shuffles all tars together. If the number of
            ranks divides C, each rank has whole groups, neighboring ones on a node, so a node reads only its share of
            the tars; the order is the same for every such number. Each global batch has equally many clips of every
            group or, if C does not divide it, of every set of neighboring groups that a rank may have.
        start_multiple: Clips begin at multiples of so many stored frames; with the GOP's size, at keyframes.
        augmentation: Other random changes.
    """

    num_steps = None

    def __init__(
        self,
        index: ShardIndex,
        samples: np.ndarray,
        spec: ClipSpec,
        *,
        global_batch_size: int,
        seed: int,
        flip: bool = True,
        shuffle_window: int | None = None,
        canonical_groups: int = 0,
        start_multiple: int = 1,
        augmentation: Augmentation = NONE,
    ) -> None:
        if not len(samples):
            raise UserError(f"{index.name}: no sample to train on; choose another split")
        require_positive(start_multiple=start_multiple, shuffle_window=shuffle_window)
        if canonical_groups < 0:
            raise UserError(f"canonical_groups must be >= 0, which is none, got {canonical_groups}")
        if not 0 <= seed < 2**63:
            raise UserError(f"seed must be 0 to 2**63 - 1, got {seed}")
        super().__init__(index, samples, spec, global_batch_size)
        self._seed, self._flip, self._shuffle_window = seed, flip, shuffle_window
        self.start_multiple, self.augmentation = start_multiple, augmentation
        if 0 < (least := augmentation.scale_jitter[0]) < spec.crop_size:
            raise UserError(f"scale_jitter must be >= crop_size, which is {spec.crop_size}, got {least}")
        self._orders: OrderedDict[int, np.ndarray] = OrderedDict()
        if canonical_groups:
            self.canonical_groups = canonical_groups
            # Positions are dealt to as many sets of neighboring groups as there may be ranks.
            self._num_hands = math.gcd(global_batch_size, canonical_groups)
            self._rows = dealt(global_batch_size, self._num_hands)
            self._first_positions = dealt(canonical_groups, self._num_hands)  # of each group
            tars, tar = np.unique(index.tar_of(self._samples), return_inverse=True)
            place = np.random.Generator(np.random.Philox(key=LINE_KEY)).permutation(len(tars))
            self._samples = self._samples[np.argsort(place[tar], kind="stable")]  # the line that is cut into groups
            self._tar_starts = np.append(0, np.cumsum(np.bincount(place[tar])))

    @property
    def samples_per_epoch(self) -> int:
        """N, the positions of an epoch."""
        return len(self._samples)

    def epoch_of(self, step: int) -> int:
        """The epoch that a step begins in, both 0-based."""
        return step * self.global_batch_size // self.samples_per_epoch

    @property
    def identity(self) -> str:
        return (
            f"train {self.index.fingerprint} samples={len(self._samples)} {self.spec} seed={self._seed} "
            f"flip={self._flip} window={self._shuffle_window}"
            + (f" start_multiple={self.start_multiple}" if self.start_multiple > 1 else "")
            + (f" groups={self.canonical_groups} hands={self._num_hands}" if self.canonical_groups else "")
            + (f" {self.augmentation}" if self.augmentation.is_on else "")
        )

    def batch(self, step: int) -> PlannedClips:
        """The global batch of a step."""
        position = self._positions(step)
        return self._clips(position, self.samples_at(position))

    def _clips(self, position: np.ndarray, sample: np.ndarray) -> PlannedClips:
        """What positions draw of some samples."""
        words = self._words(position, WORDS_PER_POSITION, stream=DRAW_STREAM)  # [B, 4]
        starts = num_starts(self.stored_spec, video_frames=self.index.num_frames[sample])
        sizes, crop = self._sizes(sample), self.spec.crop_size
        augmented = None
        down, sideways = (sizes - crop + 1).T
        if self.augmentation.is_on:
            more = self._words(position, WORDS, stream=AUGMENT_STREAM)
            augmented = draw(more, self.augmentation, sizes=sizes, crop_size=crop)
            down, sideways = sizes[:, 0] - augmented["height"] + 1, sizes[:, 1] - augmented["width"] + 1
        return PlannedClips(
            position=position,
            sample=sample,
            start=random_below(words[:, 0], -(-starts // self.start_multiple)) * self.start_multiple,
            view=np.zeros_like(position),
            top=random_below(words[:, 1], down),
            left=random_below(words[:, 2], sideways),
            flip=(words[:, 3] >> np.uint64(63)).astype(bool) & self._flip,
            weight=np.ones(len(position), np.float32),
            label_draw=words[:, 3] << np.uint64(32),
            augmented=augmented,  # type: ignore[arg-type]  # never None after __post_init__
        )

    def samples_at(self, position: np.ndarray) -> np.ndarray:
        """The sample at each position of the stream: int64, shaped like `position`."""
        epoch, place = np.divmod(position, self.samples_per_epoch)
        sample = np.empty_like(position)
        for e in np.unique(epoch):
            here = epoch == e
            sample[here] = self._samples[self._order(int(e))[place[here]]]
        return sample

    def replacement(self, clip: PlannedClips, attempt: int) -> PlannedClips:
        """The sample `attempt` positions further on in its group, with the same draws; the same in every run."""
        return self._clips(clip.position, self.samples_at(clip.position + attempt * max(self.canonical_groups, 1)))

    def _order(self, epoch: int) -> np.ndarray:
        """The order of an epoch: int32 or int64 [N], a permutation of the samples' places."""
        if epoch not in self._orders:
            random = np.random.Generator(np.random.Philox(key=[self._seed, epoch], counter=[0, 0, 0, ORDER_STREAM]))
            if self.canonical_groups:
                slots = (self._first_positions - epoch * self.samples_per_epoch) % self.canonical_groups
                order = grouped_order(self._tar_starts, slots, window=self._shuffle_window, random=random)
            elif self._shuffle_window is None:
                order = random.permutation(self.samples_per_epoch)
            else:
                tar = self.index.tar_of(self._samples)
                order = window_order(tar, window=self._shuffle_window, random=random)
            self._orders[epoch] = compact(order)
            while len(self._orders) > KEPT_ORDERS:
                self._orders.popitem(last=False)
        return self._orders[epoch]

    def _words(self, position: np.ndarray, num_words: int, *, stream: int) -> np.ndarray:
        """Random words of positions: uint64 [B, num_words]. The position is Philox's counter, so each has its own."""
        epoch, place = np.divmod(position, self.samples_per_epoch)
        words = np.empty((len(position), num_words), np.uint64)
        for e in np.unique(epoch):
            here = epoch == e
            first, last = int(place[here].min()), int(place[here].max())  # a batch has all between them
            counter = [first * num_words // WORDS_PER_POSITION, 0, 0, stream]
            philox = np.random.Philox(key=[self._seed, int(e)], counter=counter)
            words[here] = philox.random_raw((last - first + 1) * num_words).reshape(-1, num_words)[place[here] - first]
        return words


def drawn_labels(index: ShardIndex, clips: PlannedClips) -> np.ndarray:
    """The class of each clip: int64 [B]. Of a sample with several labels, one is drawn each time.

    The draw belongs to the position, so it is the same on every rank and in every run.
    """
    return index.label_at(clips.sample, random_below(clips.label_draw, index.num_labels(clips.sample)))


class EvalPlan(_SomeSamples):
    """Every sample once, as evenly spaced clips; the last batch is padded with weight 0.

    Args:
        num_views: Clips per sample.
        num_crops: Crops of each clip, evenly spaced along the longer side of the picture; 1 is the one in the middle.
            All are of the same frames, decoded once. A rank's share of `global_batch_size` must be a multiple of it.
    """

    def __init__(
        self,
        index: ShardIndex,
        samples: np.ndarray,
        spec: ClipSpec,
        *,
        global_batch_size: int,
        num_views: int = 1,
        num_crops: int = 1,
    ) -> None:
        if not len(samples):
            raise UserError(f"{index.name}: no sample to evaluate; choose another split")
        require_positive(num_views=num_views, num_crops=num_crops)
        super().__init__(index, samples, spec, global_batch_size)
        self.num_views, self.num_crops = num_views, num_crops

    @property
    def num_clips(self) -> int:
        """Samples times views times crops."""
        return len(self._samples) * self.num_views * self.num_crops

    @property
    def num_steps(self) -> int:
        return -(-self.num_clips // self.global_batch_size)

    @property
    def identity(self) -> str:
        crops = f" crops={self.num_crops}" if self.num_crops > 1 else ""
        return f"eval {self.index.fingerprint} samples={len(self._samples)} {self.spec} views={self.num_views}{crops}"

    def batch(self, step: int) -> PlannedClips:
        """The global batch of a step; the views of a sample, and the crops of a view, are consecutive."""
        position = self._positions(step)
        real = position < self.num_clips
        last = self.num_clips - self.num_crops + position % self.num_crops  # padding repeats the last view
        place, view = np.divmod(np.where(real, position, last), self.num_views * self.num_crops)
        clip, crop = np.divmod(view, self.num_crops)
        sample = self._samples[place].astype(np.int64)
        starts = uniform_starts(self.num_views, self.stored_spec, video_frames=self.index.num_frames[sample])
        room = self._sizes(sample) - self.spec.crop_size  # [B, 2]
        corner = room // 2
        if self.num_crops > 1:
            along, row = room.argmax(axis=1), np.arange(len(room))
            corner[row, along] = room[row, along] * crop // (self.num_crops - 1)
        return PlannedClips(
            position=np.where(real, position, -1),
            sample=sample,
            start=np.take_along_axis(starts, clip[:, None], axis=1)[:, 0],
            view=view,
            top=corner[:, 0],
            left=corner[:, 1],
            flip=np.zeros(len(position), bool),
            weight=real.astype(np.float32),
        )

    def replacement(self, clip: PlannedClips, attempt: int) -> None:
        """None: nothing may replace a test video; a damaged one gets weight 0."""
        return None
