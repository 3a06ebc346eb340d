"""The graph that NVDEC feeds, on a decoder that DALI has on a CPU too: clips in streams, cropped and flipped."""

import io
from types import SimpleNamespace

import av
import numpy as np
import pytest
from nvidia.dali import Pipeline, fn

from res3d_video.pipeline.augment import NONE
from res3d_video.pipeline.clip import ClipSpec, frame_indices
from res3d_video.pipeline.codecs.h264 import H264Codec
from res3d_video.pipeline.codecs.mp4 import join
from res3d_video.pipeline.graph import DaliEngine, crop_matrices, fed
from res3d_video.pipeline.plan import PlannedClips
from res3d_video.pipeline.settings import LoaderSettings
from res3d_video.tools.numbered import numbered_frame, read_numbers


def mjpeg_video(numbers: list[int]) -> np.ndarray:
    """A video that DALI decodes on a CPU; its frames show numbers in the stored picture's size."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mov") as container:
        stream = container.add_stream("mjpeg", rate=25, options={"q": "2"})
        stream.width, stream.height, stream.pix_fmt = 176, 128, "yuvj420p"
        for number in numbers:
            picture = np.full((128, 176, 3), 90, np.uint8)
            picture[:, :171] = numbered_frame(number, height=128, width=171)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return np.frombuffer(buffer.getvalue(), np.uint8)


@pytest.mark.parametrize("resize", [None, 64, 256])
@pytest.mark.parametrize("num_threads", [1, 2, 3, 5])
def test_clips_joined_in_streams_come_out_whole_cropped_and_flipped(num_threads: int, resize: int | None) -> None:
    """Five clips in as many streams as threads, of which the last may hold fewer."""
    crop = {None: 112, 64: 56, 256: 224}[resize]
    clip, scale = ClipSpec(4, 2, crop, resize), (resize or 128) / 128
    starts, lengths = np.array([3, 0, 17, 8, 30]), np.array([40, 1, 24, 3 + 8, 40])
    frames = frame_indices(starts, clip, video_frames=lengths)
    codec, content = H264Codec(128, 176, 8, 20, b"", b""), np.tile([0, 0, 171, 128], (5, 1))
    index = SimpleNamespace(stored_as=codec, codec="h264", size=128, content=content)
    given = {"mean": (128.0,) * 3, "std": (1.0,) * 3, "whole_pictures": True}
    # With the inputs that a GPU gets; the pipeline below runs on the CPU.
    plan = SimpleNamespace(index=index, spec=clip, augmentation=NONE, num_crops=1)
    engine = DaliEngine(plan, batch_size=5, gpu=0, settings=LoaderSettings(num_threads=num_threads), **given)
    located = codec.locate(frames, blank=np.zeros(5, bool))
    streams = join(located, clips_per_stream=engine.clips_per_stream)
    packets = np.split(located.rows, np.cumsum(located.count)[:-1])
    videos = [mjpeg_video(np.concatenate(packets[s.clips]).tolist()) for s in streams]
    room = round(171 * scale) - crop, round(128 * scale) - crop
    left, top = np.array([0, room[0], 5, 11, room[0] // 2]), np.array([0, room[1], 3, 1, room[1] // 2])
    flip, rows = np.array([False, True, False, True, True]), np.arange(5)
    planned = PlannedClips(rows, rows, starts, 0 * rows, top, left, flip, np.ones(5, np.float32))

    pipe = Pipeline(len(streams), 2, None, prefetch_queue_depth=1)
    with pipe:
        shown = fn.decoders.video(fed("stream"), device="cpu", frames=fed("wanted"))
        pipe.set_outputs(engine.clips_of(shown))
    pipe.build()
    for name, samples in engine.video_inputs(planned, streams, videos).items():
        pipe.feed_input(name, samples)
    (output,) = pipe.run()
    clips = np.stack([np.array(o) for o in output]).reshape(-1, 4, crop, crop, 3)[:5].astype(np.float32)
    for n in range(5):
        numbers = read_numbers(clips[n].transpose(3, 0, 1, 2), left=left[n] / scale, scale=scale, flip=bool(flip[n]))
        assert numbers == frames[n].tolist()


@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_matrix_moves_whole_pixels(flip: bool) -> None:
    (matrix,) = crop_matrices(
        x=np.array([37.0]), y=np.array([9.0]), size=np.array([[112, 112]]), flip=np.array([flip]), crop=112
    )
    for x, y in ((0, 0), (111, 111), (50, 3)):
        place = matrix @ [x + 0.5, y + 0.5, 1]  # of the pixel's centre
        assert place.tolist() == [37 + (111 - x if flip else x) + 0.5, 9 + y + 0.5]
