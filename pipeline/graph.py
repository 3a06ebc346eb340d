"""The DALI graph: compressed clips in, normalized clips out; the same operators on a GPU and on a CPU.

Filmstrips: a clip is one JPEG of its frames. H.264: a GPU's NVDEC decodes streams of many clips each; DALI decodes no
H.264 on a CPU, where PyAV does that first step and the graph begins with frames.
"""

import math
from typing import Any

import numpy as np
from nvidia.dali import Pipeline, fn
from nvidia.dali.types import DALIDataType, DALIImageType, DALIInterpType

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.codecs.h264 import H264Codec
from res3d_video.pipeline.codecs.mp4 import Splicer, Stream, join
from res3d_video.pipeline.frames import Pool
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.plan import PlannedClips
from res3d_video.pipeline.reader import ReadStep
from res3d_video.pipeline.settings import LoaderSettings

Inputs = dict[str, list[Any] | np.ndarray]  # a batch as the graph takes it: name -> N samples


def fed(name: str) -> Any:
    """An input of the graph: `pipe.feed_input(name, samples)` once a batch."""
    return fn.external_source(name=name, no_copy=True)


class DaliEngine:
    """Turns what was read of a step into clips by DALI.

    Args:
        gpu: CUDA device, or None for the CPU.
        mean, std: Per channel, RGB; clips come as (value - mean) / std.
        whole_pictures: Decode whole JPEGs; else, where nothing is resized, just the columns of the crop.
    """

    def __init__(
        self,
        index: ShardIndex,
        clip: ClipSpec,
        *,
        batch_size: int,
        gpu: int | None,
        settings: LoaderSettings,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        whole_pictures: bool,
    ) -> None:
        self._index, self._codec, self._clip, self._gpu, self._settings = index, index.stored_as, clip, gpu, settings
        self.num_pipelines = settings.pipelines(codec=index.codec, on_gpu=gpu is not None)  # that take turns
        threads = settings.num_threads
        # K, of H.264: opening a stream costs NVDEC time, so there are as few as threads to decode them.
        self.clips_per_stream = 1 if gpu is None else -(-batch_size // min(threads, batch_size))
        self._batch_size, self._mean, self._std = batch_size, list(mean), list(std)
        self._scale = clip.scale(index.size)
        self._cuts_columns = not whole_pictures and self._scale == 1  # a resize needs their neighbors too
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
        num_samples = -(-self._batch_size // self.clips_per_stream) if is_video else self._batch_size
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
        """JPEGs of T tiles to clips [T, crop, crop, 3]."""
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
        corner: dict[str, Any] = {}
        if self._scale != 1:
            frames = fn.resize(frames, size=size, roi_start=fed("roi_start"), roi_end=fed("roi_end"), antialias=True)
        else:
            corner = {"crop_pos_y": fed("crop_y"), "crop_pos_x": 0.0 if self._cuts_columns else fed("crop_x")}
        return self._normalize(frames, crop=size, mirror=fed("flip"), **corner)

    def _jpeg_inputs(self, clips: PlannedClips, jpegs: list[np.ndarray]) -> Inputs:
        crop, content, scale = self._clip.crop_size, self._index.content[clips.sample], self._scale
        y, x = content[:, 1] + clips.top / scale, content[:, 0] + clips.left / scale  # the crop's corner, stored pixels
        inputs: Inputs = {"jpeg": jpegs, "flip": clips.flip.astype(np.int32)}
        if scale != 1:
            far = points(y + crop / scale, x + crop / scale, np.float32)
            return inputs | {"roi_start": points(y, x, np.float32), "roi_end": far}
        # crop_mirror_normalize wants the corner as a part of the room there is
        inputs["crop_y"] = (y / max(self._codec.tile_height - crop, 1)).astype(np.float32)
        if not self._cuts_columns:
            return inputs | {"crop_x": (x / max(self._codec.tile_width - crop, 1)).astype(np.float32)}
        bottom = np.full(len(y), self._clip.num_frames * self._codec.tile_height)
        return inputs | {"cut_start": points(0 * y, x, np.int32), "cut_end": points(bottom, x + crop, np.int32)}

    def _video_graph(self) -> Any:
        """Streams of K clips, or on a CPU their frames, to clips [K × T, crop, crop, 3]."""
        if self._gpu is None:
            return self.clips_of(fn.reshape(fed("frames"), layout="FHWC"))
        return self.clips_of(fn.decoders.video(fed("stream"), device="mixed", frames=fed("wanted")))

    def clips_of(self, frames: Any) -> Any:
        """Wanted frames [U, tile_height, tile_width, 3] resized, cropped, flipped, put in order and normalized."""
        codec, scale = self._codec, self._scale
        if scale != 1:
            height, width = (math.ceil(side * scale) for side in (codec.tile_height, codec.tile_width))
            corner = [height / scale, width / scale]  # of the frame, or a fraction of a pixel past it
            frames = fn.resize(frames, size=[height, width], roi_start=[0.0, 0.0], roi_end=corner, antialias=True)
        frames = fn.warp_affine(  # [U, crop, crop, 3]; a stream's frames are of many clips, so each has its own place
            frames,
            matrix=fn.per_frame(fed("matrices")),
            size=[self._clip.crop_size] * 2,
            interp_type=DALIInterpType.INTERP_NN,  # whole pixels are moved, none is mixed
            fill_value=0,
        )
        frames = fn.sequence_rearrange(frames, new_order=fed("order"))  # [K × T, …]; a short clip repeats its last
        return self._normalize(frames)

    def video_inputs(self, clips: PlannedClips, streams: list[Stream], contents: list[np.ndarray]) -> Inputs:
        """What the graph reads of H.264, a stream a sample.

        Args:
            contents: Of each stream, on a GPU its bytes, uint8 [bytes]; on a CPU its wanted frames, uint8 [U, H, W, 3].
        """
        corner = np.rint(self._index.content[clips.sample, :2] * self._scale)
        x, y = corner[:, 0] + clips.left, corner[:, 1] + clips.top
        matrices = crop_matrices(x=x, y=y, flip=clips.flip, crop=self._clip.crop_size)
        inputs: Inputs = {
            "order": [stream.order for stream in streams],
            "matrices": [matrices[stream.clips][stream.owner] for stream in streams],  # [U, 2, 3] each
        }
        if self._gpu is None:
            return inputs | {"frames": contents}
        return inputs | {"stream": contents, "wanted": [stream.frames for stream in streams]}

    def _normalize(self, frames: Any, **cut: Any) -> Any:
        """(value - mean) / std; `cut` crops and mirrors in the same pass."""
        dtype = DALIDataType.FLOAT if self._gpu is None else DALIDataType.FLOAT16
        how: dict[str, Any] = {"mean": self._mean, "std": self._std, "output_layout": "FHWC", "dtype": dtype}
        return fn.crop_mirror_normalize(frames, **how, **cut)


def points(y: np.ndarray, x: np.ndarray, dtype: type) -> np.ndarray:
    """Two columns [N] as N points [N, 2], in one piece of memory."""
    return np.ascontiguousarray(np.stack([y, x], axis=1), dtype)


def crop_matrices(*, x: np.ndarray, y: np.ndarray, flip: np.ndarray, crop: int) -> np.ndarray:
    """From a place in the crop to the place in the frame that it shows: float32 [N, 2, 3].

    Args:
        x, y: [N], left and top edge of the crop, pixels.
        flip: bool [N], mirrored left to right.

    >>> crop_matrices(x=np.array([3, 3]), y=np.array([5, 5]), flip=np.array([False, True]), crop=8).tolist()
    [[[1.0, 0.0, 3.0], [0.0, 1.0, 5.0]], [[-1.0, 0.0, 11.0], [0.0, 1.0, 5.0]]]
    """
    matrices = np.zeros((len(x), 2, 3), np.float32)
    matrices[:, 0, 0] = np.where(flip, -1, 1)
    matrices[:, 1, 1] = 1
    matrices[:, 0, 2] = np.where(flip, x + crop, x)
    matrices[:, 1, 2] = y
    return matrices
