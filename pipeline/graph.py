"""The DALI graph: compressed clips in, normalized clips out; the same operators on a GPU and on a CPU.

Filmstrips: a clip is one JPEG of its frames. H.264: a GPU's NVDEC decodes streams of many clips each; DALI decodes no
H.264 on a CPU, where PyAV does that first step and the graph begins with frames.
"""

import math
from typing import Any

import numpy as np
from nvidia.dali import Pipeline, fn
from nvidia.dali.types import DALIDataType, DALIImageType, DALIInterpType

from res3d_video.pipeline.augment import COLOR
from res3d_video.pipeline.codecs.h264 import H264Codec
from res3d_video.pipeline.codecs.mp4 import Splicer, Stream, join
from res3d_video.pipeline.frames import Pool
from res3d_video.pipeline.plan import Plan, PlannedClips
from res3d_video.pipeline.reader import ReadStep
from res3d_video.pipeline.settings import LoaderSettings

Inputs = dict[str, list[Any] | np.ndarray]  # a batch as the graph takes it: name -> N samples


def fed(name: str) -> Any:
    """An input of the graph: `pipe.feed_input(name, samples)` once a batch."""
    return fn.external_source(name=name, no_copy=True)


class DaliEngine:
    """Turns what was read of a step into clips by DALI.

    Args:
        plan: Whose steps are read.
        gpu: CUDA device, or None for the CPU.
        mean, std: Per channel, RGB; clips come as (value - mean) / std.
        whole_pictures: Decode whole JPEGs; else, where nothing is resized, just the columns of the crop.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        batch_size: int,
        gpu: int | None,
        settings: LoaderSettings,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        whole_pictures: bool,
    ) -> None:
        index, clip, augmentation, num_crops = plan.index, plan.spec, plan.augmentation, plan.num_crops
        self._index, self._codec, self._clip, self._gpu, self._settings = index, index.stored_as, clip, gpu, settings
        self.num_pipelines = settings.pipelines(codec=index.codec, on_gpu=gpu is not None)  # that take turns
        threads, self._num_reads = settings.num_threads, batch_size // num_crops
        # K, of H.264: opening a stream costs NVDEC time, so there are as few as threads to decode them.
        self.clips_per_stream = 1 if gpu is None else -(-self._num_reads // min(threads, self._num_reads))
        self._mean, self._std, self._augmentation, self._num_crops = list(mean), list(std), augmentation, num_crops
        self._scale = clip.scale(index.size)
        self._resizes = self._scale != 1 or augmentation.resizes
        # Of what is cut from frames of H.264. Pieces of different sizes are cut as large as stored and then resized:
        # DALI resizes all frames of a stream alike, and what cuts each at its own place (warp_affine) does not smooth.
        self._side = math.ceil(clip.crop_size * (max(1, 1 / self._scale) if augmentation.resizes else 1))
        self._cuts_columns = not (whole_pictures or self._resizes or num_crops > 1)  # a resize needs neighbors too
        self._pool = Pool(threads)
        if isinstance(self._codec, H264Codec):
            size = {"height": self._codec.tile_height, "width": self._codec.tile_width}
            self._splicer = Splicer(self._codec.avcc, **size)

    def build(self, *, queue_depth: int) -> Pipeline:
        """The pipeline from `inputs` of one step after another to clips FHWC, a clip or a stream a sample.

        Half precision on a GPU, float32 on a CPU. A batch of FHWC viewed as NCTHW *is* channels_last_3d: no copy.
        Inputs are read in place: whoever feeds them holds them until that batch is there.

        Args:
            queue_depth: Batches worked on at a time; the first `schedule_run` starts so many.
        """
        is_video = isinstance(self._codec, H264Codec)
        num_samples = -(-self._num_reads // self.clips_per_stream) if is_video else self._num_reads
        pipe = Pipeline(num_samples, self._settings.num_threads, self._gpu, prefetch_queue_depth=queue_depth)
        with pipe:
            pipe.set_outputs(self._video_graph() if is_video else self._jpeg_graph())
        pipe.build()
        return pipe

    def inputs(self, read: ReadStep) -> Inputs:
        """A step as the graph takes it: lists of N samples, and arrays whose first axis is N.

        Raises:
            UndecodableError: Names the clips that do not decode, where that is found out before the graph.
        """
        if not isinstance(self._codec, H264Codec):
            return self._jpeg_inputs(read.clips, [data[0] for data in read.data])
        streams = join(read.located, clips_per_stream=self.clips_per_stream)
        packets = [[packet for own in read.data[stream.clips] for packet in own] for stream in streams]
        if self._gpu is None:
            contents = self._pool.map(self._codec.decoder.decode, packets, [stream.frames for stream in streams])
        else:
            contents = [self._splicer.splice(own) for own in packets]
        return self.video_inputs(read.clips, streams, contents)

    def _jpeg_graph(self) -> Any:
        """JPEGs of T tiles to clips [C × T, crop, crop, 3]."""
        height, width, size = self._codec.tile_height, self._codec.tile_width, [self._clip.crop_size] * 2
        how: dict[str, Any] = {"device": "cpu", "output_type": DALIImageType.RGB, "adjust_orientation": False}
        if self._gpu is not None:
            how |= {"device": "mixed", "hw_decoder_load": self._settings.hw_decoder_load}
            how |= {"jpeg_fancy_upsampling": self._settings.fancy_upsampling}
        if self._cuts_columns:
            width = self._clip.crop_size
            cut = {"start": fed("cut_start"), "end": fed("cut_end"), "axes": [0, 1]}
            picture = fn.decoders.image_slice(fed("jpeg"), **cut, **how)
        else:
            picture = fn.decoders.image(fed("jpeg"), **how)  # HWC [T × tile_height, W, 3]
        frames = fn.reshape(picture, shape=[self._clip.num_frames, height, width, 3], layout="FHWC")

        def crop_at(c: int) -> dict[str, Any]:
            x = 0.0 if self._cuts_columns else fed(f"crop_x{c}")
            return {"crop": size, "crop_pos_y": fed(f"crop_y{c}"), "crop_pos_x": x}

        if self._resizes:
            crops = [
                fn.resize(frames, size=size, antialias=True, roi_start=fed(f"roi_start{c}"), roi_end=fed(f"roi_end{c}"))
                for c in range(self._num_crops)
            ]
        elif self._num_crops > 1 or self._augmentation.is_on:
            crops = [fn.crop(frames, **crop_at(c)) for c in range(self._num_crops)]
        else:  # the last operator crops too
            return self._normalize(frames, mirror=fed("flip"), **crop_at(0))
        return self._normalize(self._change(joined(crops)), mirror=fed("flip"))

    def _jpeg_inputs(self, clips: PlannedClips, jpegs: list[np.ndarray]) -> Inputs:
        crop, content, scale = self._clip.crop_size, self._index.content[clips.sample], self._scale
        num_crops, room = self._num_crops, (self._codec.tile_height - crop, self._codec.tile_width - crop)
        corner = content[:, [1, 0]] + np.stack([clips.top, clips.left], axis=1) / scale  # [N, 2], stored pixels
        inputs: Inputs = {"jpeg": jpegs, "flip": clips.flip[::num_crops].astype(np.int32)}
        inputs |= self._changes(clips, np.arange(len(clips))[:, None], is_mirrored_later=True)
        if self._cuts_columns:
            x, bottom = corner[:, 1], np.full(len(clips), self._clip.num_frames * self._codec.tile_height)
            inputs["cut_start"] = np.stack([0 * x, x], axis=1).astype(np.int32)
            inputs["cut_end"] = np.stack([bottom, x + crop], axis=1).astype(np.int32)
        far = corner + self._region(clips) / scale
        for c in range(num_crops):
            if self._resizes:
                inputs[f"roi_start{c}"] = np.ascontiguousarray(corner[c::num_crops], np.float32)
                inputs[f"roi_end{c}"] = np.ascontiguousarray(far[c::num_crops], np.float32)
                continue
            y, x = corner[c::num_crops].T
            # crop operators want the corner as a part of the room there is
            inputs[f"crop_y{c}"] = (y / max(room[0], 1)).astype(np.float32)
            if not self._cuts_columns:
                inputs[f"crop_x{c}"] = (x / max(room[1], 1)).astype(np.float32)
        return inputs

    def _region(self, clips: PlannedClips) -> np.ndarray:
        """Height and width of the piece of the picture that becomes the crop, pixels after resizing: int64 [N, 2]."""
        if not self._augmentation.resizes:
            return np.full((len(clips), 2), self._clip.crop_size)
        return np.stack([clips.augmented["height"], clips.augmented["width"]], axis=1)

    def _video_graph(self) -> Any:
        """Streams of K clips, or on a CPU their frames, to clips [K × C × T, crop, crop, 3]."""
        if self._gpu is None:
            return self.clips_of(fn.reshape(fed("frames"), layout="FHWC"))
        return self.clips_of(fn.decoders.video(fed("stream"), device="mixed", frames=fed("wanted")))

    def clips_of(self, frames: Any) -> Any:
        """Wanted frames [U, tile_height, tile_width, 3] resized, cropped, flipped, put in order and normalized."""
        codec, scale = self._codec, self._scale
        if scale != 1 and not self._augmentation.resizes:
            height, width = (math.ceil(side * scale) for side in (codec.tile_height, codec.tile_width))
            corner = [height / scale, width / scale]  # of the frame, or a fraction of a pixel past it
            frames = fn.resize(frames, size=[height, width], roi_start=[0.0, 0.0], roi_end=corner, antialias=True)
        nearest, linear = DALIInterpType.INTERP_NN, DALIInterpType.INTERP_LINEAR  # the first moves whole pixels
        how: dict[str, Any] = {"interp_type": linear if self._augmentation.resizes else nearest}
        crops = [  # [U, side, side, 3] each; a stream's frames are of many clips, so each has its own place
            fn.warp_affine(frames, matrix=fn.per_frame(fed(f"matrices{c}")), size=[self._side] * 2, **how)
            for c in range(self._num_crops)
        ]
        # [K × C × T, side, side, 3]; a short clip repeats its last frame
        frames = fn.sequence_rearrange(joined(crops), new_order=fed("order"))
        if self._side != self._clip.crop_size:
            frames = fn.resize(frames, size=[self._clip.crop_size] * 2, antialias=True)
        return self._normalize(self._change(frames))

    def video_inputs(self, clips: PlannedClips, streams: list[Stream], contents: list[np.ndarray]) -> Inputs:
        """What the graph reads of H.264, a stream a sample.

        Args:
            contents: Of each stream, on a GPU its bytes, uint8 [bytes]; on a CPU its wanted frames, uint8 [U, H, W, 3].
        """
        num_crops = self._num_crops
        scale = 1.0 if self._augmentation.resizes else self._scale  # of the frames that are cut
        corner = np.rint(self._index.content[clips.sample, :2] * scale)
        x, y = (corner + np.stack([clips.left, clips.top], axis=1) * (scale / self._scale)).T
        size = self._region(clips) * (scale / self._scale)
        matrices = crop_matrices(x=x, y=y, size=size, flip=clips.flip, crop=self._side)
        inputs: Inputs = {"order": [self._order(stream) for stream in streams]}
        for c in range(num_crops):  # [U, 2, 3] each
            own = matrices[c::num_crops]
            inputs[f"matrices{c}"] = [own[stream.clips][stream.owner] for stream in streams]
        rows = np.arange(len(streams) * self.clips_per_stream).reshape(len(streams), -1)
        inputs |= self._changes(clips, np.minimum(rows, len(clips) - 1), is_mirrored_later=False)
        if self._gpu is None:
            return inputs | {"frames": contents}
        return inputs | {"stream": contents, "wanted": [stream.frames for stream in streams]}

    def _order(self, stream: Stream) -> np.ndarray:
        """Place of each frame of the crops of a stream's clips among all cropped frames: int32 [K × C × T]."""
        order = stream.order.reshape(self.clips_per_stream, 1, -1)
        return (order + len(stream.frames) * np.arange(self._num_crops, dtype=np.int32)[:, None]).ravel()

    def _change(self, frames: Any) -> Any:
        """Crops [F, crop, crop, 3], uint8, with other colors, float, and with boxes erased."""
        if self._augmentation.colors:  # on a CPU, rounding to whole numbers would take longer than the rest of it
            color = {name: fn.per_frame(fed(name)) for name in COLOR}
            frames = fn.color_twist(frames, dtype=DALIDataType.FLOAT, **color)
        if self._augmentation.erasing:
            box = {"anchor": fed("erased_at"), "shape": fed("erased_size"), "axis_names": "FHW"}
            frames = fn.erase(frames, fill_value=np.rint(self._mean).tolist(), **box)
        return frames

    def _changes(self, clips: PlannedClips, rows: np.ndarray, *, is_mirrored_later: bool) -> Inputs:
        """What `_change` reads.

        Args:
            rows: int64 [S, K], the clips of each of S samples.
        """
        num_frames, drawn, inputs = self._clip.num_frames, clips.augmented, Inputs()
        if self._augmentation.colors:
            color = np.repeat(drawn["color"][rows], num_frames, axis=1)  # [S, K × T, 4]
            inputs |= {name: np.ascontiguousarray(color[..., i]) for i, name in enumerate(COLOR)}
        if self._augmentation.erasing:
            corner, size = np.split(drawn["erased"][rows], 2, axis=2)  # [S, K, 2] each
            if is_mirrored_later:
                x = self._clip.crop_size - corner[..., 1] - size[..., 1]
                corner[..., 1] = np.where(clips.flip[rows], x, corner[..., 1])
            length = np.full((*rows.shape, 1), num_frames)  # a box of all frames of a clip, one clip after another
            first = length * np.arange(rows.shape[1])[:, None]
            for name, box in (("erased_at", (first, corner)), ("erased_size", (length, size))):
                inputs[name] = np.concatenate(box, axis=2).reshape(len(rows), -1).astype(np.float32)
        return inputs

    def _normalize(self, frames: Any, **cut: Any) -> Any:
        """(value - mean) / std; `cut` crops and mirrors in the same pass."""
        dtype = DALIDataType.FLOAT if self._gpu is None else DALIDataType.FLOAT16
        how: dict[str, Any] = {"mean": self._mean, "std": self._std, "output_layout": "FHWC", "dtype": dtype}
        return fn.crop_mirror_normalize(frames, **how, **cut)


def joined(clips: list[Any]) -> Any:
    """Clips one after another."""
    return fn.cat(*clips, axis=0) if len(clips) > 1 else clips[0]


def crop_matrices(*, x: np.ndarray, y: np.ndarray, size: np.ndarray, flip: np.ndarray, crop: int) -> np.ndarray:
    """From a place in the crop to the place in the frame that it shows: float32 [N, 2, 3].

    Args:
        x, y: [N], left and top edge of the piece of the frame that becomes the crop, pixels.
        size: [N, 2], its height and width.
        flip: bool [N], mirrored left to right.

    >>> x, y, size = np.array([3, 3]), np.array([5, 5]), np.array([[8, 8], [4, 16]])
    >>> crop_matrices(x=x, y=y, size=size, flip=np.array([False, True]), crop=8).tolist()
    [[[1.0, 0.0, 3.0], [0.0, 1.0, 5.0]], [[-2.0, 0.0, 19.0], [0.0, 0.5, 5.0]]]
    """
    matrices = np.zeros((len(x), 2, 3), np.float32)
    matrices[:, 0, 0] = np.where(flip, -1, 1) * size[:, 1] / crop
    matrices[:, 1, 1] = size[:, 0] / crop
    matrices[:, 0, 2] = np.where(flip, x + size[:, 1], x)
    matrices[:, 1, 2] = y
    return matrices
