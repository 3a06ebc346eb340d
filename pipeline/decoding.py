"""What a loader does of one codec: pictures to the inputs of its graph, and the graph itself."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import simplejpeg
from nvidia.dali import Pipeline

from pipeline.filmstrip import ClipStrips, blank_tile, max_slots
from pipeline.graph import GraphSpec, build_graph, graph_inputs
from pipeline.h264.check import avcc_faults, blank_faults
from pipeline.h264.decode import SoftwareDecoder, UndecodableError
from pipeline.h264.encode import EncodePolicy
from pipeline.h264.graph import VideoGraphSpec, build_video_graph, video_graph_inputs
from pipeline.h264.packets import ClipPackets, join
from pipeline.h264.splice import Splicer
from pipeline.plan import Plan
from pipeline.settings import LoaderSettings
from pipeline.shard import ShardError, ShardIndex
from pipeline.step_reader import ReadStep

NVDEC_PIPELINES = 7  # an H100 has seven decoders; what more pipelines or fewer give is in docs/benchmarks/gpu.md


class Decoding(Protocol):
    """From the pictures of a step to its clips.

    Attributes:
        num_pipelines: Graphs that take turns, step by step.
    """

    num_pipelines: int

    def build(self, source: Callable[[], tuple[Any, ...]]) -> Pipeline:
        """A graph; `source` gives it what `inputs` made of one step after another."""

    def inputs(self, read: ReadStep) -> tuple[Any, ...]:
        """A step as the graph takes it; the graph reads it in place.

        Raises:
            UndecodableError: Names the clips that do not decode, where that is found out before the graph.
        """

    def decodes(self, data: list[np.ndarray]) -> bool:
        """Whether the pictures of a clip are what they should be."""


class StripDecoding:
    """Filmstrips: DALI decodes JPEG, a clip a sample."""

    def __init__(self, index: ShardIndex, spec: GraphSpec, *, num_pipelines: int) -> None:
        self.num_pipelines = num_pipelines
        self._index, self._spec = index, spec
        self._blank = np.frombuffer(blank_tile(index.layout), np.uint8)

    def build(self, source: Callable[[], tuple[Any, ...]]) -> Pipeline:
        return build_graph(self._spec, source)

    def inputs(self, read: ReadStep) -> tuple[Any, ...]:
        assert isinstance(read.located, ClipStrips)
        return graph_inputs(self._spec, read.data, self._blank, read.located, **crops_of(read, self._index))

    def decodes(self, data: list[np.ndarray]) -> bool:
        try:
            for jpeg in data:
                simplejpeg.decode_jpeg(jpeg)
        except ValueError:
            return False
        return True


class VideoDecoding:
    """H.264: NVDEC decodes streams of many clips inside the graph, or PyAV decodes clips before it."""

    def __init__(self, index: ShardIndex, spec: VideoGraphSpec, *, num_pipelines: int) -> None:
        self.num_pipelines = num_pipelines
        self._index, self._spec = index, spec
        codec = index.info["codec"]
        avcc, blank = bytes.fromhex(codec["avcc"]), bytes.fromhex(codec["blank"])
        size = {"height": spec.tile_height, "width": spec.tile_width}
        policy = EncodePolicy(spec.tile_width, spec.tile_height)
        for fault in (*avcc_faults(avcc, policy), *blank_faults(blank, avcc, policy)):
            raise ShardError(f"{index.data_dir}/dataset.json: its codec is damaged ({fault}); build the shards again")
        self._blank = np.frombuffer(blank, np.uint8)
        self._splicer = Splicer(avcc, **size)
        self._software = SoftwareDecoder(avcc, **size, num_threads=spec.num_threads)

    def build(self, source: Callable[[], tuple[Any, ...]]) -> Pipeline:
        return build_video_graph(self._spec, source)

    def inputs(self, read: ReadStep) -> tuple[Any, ...]:
        assert isinstance(read.located, ClipPackets)
        streams = join(read.located, clips_per_stream=self._spec.clips_per_stream)
        packets = [own or [self._blank] for own in read.data_of_clips()]
        joined = [[packet for own in packets[stream.clips] for packet in own] for stream in streams]
        if self._spec.gpu is None:
            contents = self._software.decode(joined, [stream.frames for stream in streams])
        else:
            contents = [self._splicer.splice(packets) for packets in joined]
        return video_graph_inputs(self._spec, streams, contents, **crops_of(read, self._index))

    def decodes(self, data: list[np.ndarray]) -> bool:
        try:
            self._software.decode([data], [np.arange(0)])
        except UndecodableError:
            return False
        return True


def crops_of(read: ReadStep, index: ShardIndex) -> dict[str, np.ndarray]:
    """What part of the picture each of N clips shows, as both graphs take it."""
    clips = read.clips
    return {"top": clips.top, "left": clips.left, "flip": clips.flip, "content": index.content[clips.sample]}


def num_pipelines(settings: LoaderSettings, *, codec: str, on_gpu: bool) -> int:
    """DALI pipelines that a loader has for shards of a codec.

    >>> num_pipelines(LoaderSettings(), codec="h264", on_gpu=True)
    7
    """
    return settings.num_pipelines or (NVDEC_PIPELINES if codec == "h264" and on_gpu else 1)


def open_decoding(
    index: ShardIndex,
    plan: Plan,
    *,
    batch_size: int,
    gpu: int | None,
    settings: LoaderSettings,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    whole_strips: bool,
) -> Decoding:
    """How the clips of a plan are decoded: by NVDEC or nvJPEG on a GPU, by libjpeg-turbo or PyAV where `gpu` is None.

    Raises:
        ShardError: dataset.json's decoder configuration is damaged.
    """
    height, width = index.tile_size
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "clip": plan.spec,
        "stored_size": index.size,
        "gpu": gpu,
        "num_threads": settings.num_threads,
        "queue_depth": settings.queue_depth,
        "mean": mean,
        "std": std,
    }
    count = num_pipelines(settings, codec=index.codec, on_gpu=gpu is not None)
    if index.codec == "h264":
        # NVDEC pays for opening a stream, so there are as few as threads to decode them; PyAV does not.
        per_stream = 1 if gpu is None else -(-batch_size // min(settings.num_threads, batch_size))
        spec = VideoGraphSpec(clips_per_stream=per_stream, tile_height=height, tile_width=width, **common)
        return VideoDecoding(index, spec, num_pipelines=count)
    strips = GraphSpec(
        layout=index.layout,
        num_slots=max_slots(plan.stored_spec, index.layout),
        whole_strips=whole_strips,
        hw_decoder_load=settings.hw_decoder_load,
        **common,
    )
    return StripDecoding(index, strips, num_pipelines=count)
