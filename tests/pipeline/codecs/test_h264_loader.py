"""The loader on H.264 shards: exact frames from every start, in streams of one clip or many, and no packet too many."""

import io
import itertools
import shutil
import zlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from res3d_video.pipeline.clip import ClipSpec, frame_indices, num_starts
from res3d_video.pipeline.codecs import UndecodableError
from res3d_video.pipeline.codecs.avc import SoftwareDecoder, parameter_sets
from res3d_video.pipeline.codecs.mp4 import Splicer, join
from res3d_video.pipeline.frames import decode_frames
from res3d_video.pipeline.index import ShardError, ShardIndex, open_index
from res3d_video.pipeline.loader import ClipLoader, LoaderSettings
from res3d_video.pipeline.plan import EvalPlan, TrainPlan
from res3d_video.pipeline.reader import StepReader
from res3d_video.pipeline.schema import CRC32, OFFSET, SIZE
from res3d_video.tools.numbered import number_of, read_bits
from tests.clips import DEVICES, GridPlan, sample_of_length, shown, take, train_plan
from tests.conftest import build_numbered
from tests.hostile.pictures import peak_mb, sps_of
from tests.oracle import oracle_clips

GREY_LEVELS = {"cpu": 0.0, "cuda": 4.0}  # DALI upsamples chroma linearly, swscale takes the nearest


OTHER_GOPS = [pytest.param(gop, marks=pytest.mark.long) for gop in (4, 16)]


@pytest.fixture(scope="module", params=[8, *OTHER_GOPS], ids=lambda gop: f"gop{gop}")
def any_gop(request: pytest.FixtureRequest, numbered_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    out = tmp_path_factory.mktemp(f"gop{request.param}")
    return build_numbered(numbered_raw, out, codec="h264", gop_size=request.param)


def grid_of(index: ShardIndex, spec: ClipSpec) -> list[tuple]:
    """All starts of segments of 1, 7, 17 and 40 frames, and a spread of a long one."""
    return [
        (sample, start, start % 17, (7 * start) % 60, start % 2)
        for length, step in ((1, 1), (7, 1), (17, 1), (40, 1), (505, 37))
        for sample in [sample_of_length(index, length)]
        for start in range(0, int(num_starts(spec, video_frames=length)), step)
    ]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_frames", [4, 8])
@pytest.mark.parametrize("frame_stride", [1, 2, 4, 8, 32])
def test_every_start_gives_exactly_the_frames_asked_for(
    any_gop: ShardIndex, num_frames: int, frame_stride: int, device: str
) -> None:
    """Read back from the pixels. On a GPU a batch is two streams of eight clips, short and blank ones among them."""
    spec = ClipSpec(num_frames, frame_stride)
    plan = GridPlan(any_gop, spec, grid_of(any_gop, spec), batch_size=16)
    with ClipLoader(any_gop, plan, device=device) as loader:
        for step, batch in enumerate(loader):
            planned = plan.batch(step)
            expected = frame_indices(planned.start, spec, video_frames=any_gop.num_frames[planned.sample])
            assert shown(batch, plan, step) == expected.tolist()
            difference = np.abs(batch.clips.float().cpu().numpy() - oracle_clips(any_gop, planned, spec)).mean()
            assert difference <= GREY_LEVELS[device]
        assert step == plan.num_steps - 1


@pytest.mark.parametrize("frame_stride", [1, 2, 4, 8])
@pytest.mark.parametrize("clips_per_stream", [1, 2, 5, 16])
def test_a_spliced_stream_holds_the_frames_of_all_its_clips(
    any_gop: ShardIndex, frame_stride: int, clips_per_stream: int
) -> None:
    """What NVDEC is given, decoded from end to end by another decoder: the very frames that the graph will pick."""
    spec = ClipSpec(4, frame_stride)
    plan = GridPlan(any_gop, spec, grid_of(any_gop, spec), batch_size=16)
    reader = StepReader(any_gop, plan, rows=slice(0, 16))
    height, width = any_gop.tile_size
    splicer = Splicer(bytes.fromhex(any_gop.info["codec"]["avcc"]), height=height, width=width)
    for step in range(plan.num_steps):
        read = reader.read(step)
        planned = plan.batch(step)
        frames = frame_indices(planned.start, spec, video_frames=any_gop.num_frames[planned.sample])
        for stream in join(read.located, clips_per_stream=clips_per_stream):
            joined = [packet for own in read.data[stream.clips] for packet in own]
            video = splicer.splice(joined)
            with av.open(io.BytesIO(video.tobytes()), "r", format="mp4") as container:
                decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            assert len(decoded) == len(joined)
            numbers = [number_of(read_bits(decoded[frame].astype(float) - 128)) for frame in stream.frames]
            wanted = frames[stream.clips]
            assert [numbers[place] for place in stream.order[: wanted.size]] == wanted.ravel().tolist()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_pipelines", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 5, 7])
def test_batches_of_any_size_and_any_number_of_pipelines_are_the_same_clips(
    numbered_h264: ShardIndex, num_pipelines: int, batch_size: int, device: str
) -> None:
    """The last stream of a batch may hold fewer clips than the others; the last batch ends every pipeline."""
    plan = EvalPlan(numbered_h264, np.arange(10), ClipSpec(4, 2), global_batch_size=batch_size, num_views=2)
    settings = LoaderSettings(num_threads=3, num_pipelines=num_pipelines, queue_depth=2, read_ahead=3)
    with ClipLoader(numbered_h264, plan, device=device, settings=settings) as loader:
        steps = []
        for batch in loader:
            steps.append(batch.step)
            reference = oracle_clips(numbered_h264, plan.batch(batch.step), plan.spec)
            assert batch.clips.shape == reference.shape
            assert np.abs(batch.clips.float().cpu().numpy() - reference).mean() <= GREY_LEVELS[device]
        assert steps == list(range(plan.num_steps))
        assert not loader._reader._fetched, "everything that was fetched ahead was read"


def test_clips_that_begin_at_keyframes_waste_less(numbered_h264: ShardIndex) -> None:
    waste = {}
    for multiple in (1, numbered_h264.gop_size):
        samples = numbered_h264.samples_of("1", "train")
        plan = TrainPlan(numbered_h264, samples, ClipSpec(8, 1), global_batch_size=20, seed=0, start_multiple=multiple)
        with ClipLoader(numbered_h264, plan) as loader:
            for batch in itertools.islice(loader, 5):
                assert np.all(batch.starts % multiple == 0)
                assert np.array_equal(
                    batch.clips.numpy(), oracle_clips(numbered_h264, plan.batch(batch.step), plan.spec)
                )
            waste[multiple] = loader.work.decoded_to_used
    assert waste[numbered_h264.gop_size] <= 1 < waste[1], "a segment shorter than the clip repeats its last frame"


def test_a_parameter_set_of_another_size_takes_no_memory(numbered_h264: ShardIndex) -> None:
    codec = dict(numbered_h264.info["codec"])
    own, other = parameter_sets(bytes.fromhex(codec["avcc"]))[0], sps_of(16_000, 16_000)
    sets = [len(sps).to_bytes(2, "big") + sps for sps in (own, other)]
    codec["avcc"] = bytes.fromhex(codec["avcc"]).replace(*sets).hex()
    index = replace(numbered_h264, info=numbered_h264.info | {"codec": codec})
    with pytest.raises(ShardError, match="codec.blank: packet 0 does not decode"):
        ClipLoader(index, train_plan(index))
    decoder = SoftwareDecoder(bytes.fromhex(codec["avcc"]), height=128, width=176)
    before = peak_mb()
    with pytest.raises(UndecodableError):
        decoder.decode([np.frombuffer(bytes.fromhex(codec["blank"]), np.uint8)])
    assert peak_mb() - before < 300


def with_packets_of_other_settings(index: ShardIndex, folder: Path, sample: int) -> ShardIndex:
    """A copy in which a sample's packets are whole, pass their checksums and were made for other parameter sets."""
    shutil.copytree(index.data_dir, folder)
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 176, 128, "yuv420p", Fraction(1, 25)
    encoder.options = {"profile": "baseline", "preset": "ultrafast", "crf": "45", "x264-params": "annexb=0:keyint=8"}
    encoder.thread_count = 1
    images = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in decode_frames(index, sample)]
    made = [packet for image in images for packet in encoder.encode(image)] + encoder.encode()
    frames, tar = np.array(index.frames), folder / index.tars[index.tar[sample]]
    content = bytearray(tar.read_bytes())
    for row, packet in enumerate(map(bytes, made), start=int(index.first_frame[sample])):
        packet = packet[: frames[row, SIZE]]  # it must fit; a cut one is as wrong
        at = int(index.offset[sample]) + int(frames[row, OFFSET])
        content[at : at + len(packet)] = packet
        frames[row, SIZE], frames[row, CRC32] = len(packet), zlib.crc32(packet)
    tar.write_bytes(content)
    np.save(folder / "index/frames.npy", frames)
    return open_index(folder)


def test_packets_of_other_parameter_sets_are_survived_and_counted(numbered_h264: ShardIndex, tmp_path: Path) -> None:
    bad = sample_of_length(numbered_h264, 64)
    index = with_packets_of_other_settings(numbered_h264, tmp_path / "data", bad)
    plan = train_plan(index)
    with ClipLoader(index, plan) as loader:
        batches = take(loader, 4)
        assert loader.bad_samples == [index.key(bad)]
        assert loader.num_replaced == sum(int((plan.batch(s).sample == bad).sum()) for s in range(4)) > 0
    assert all(bad not in batch.samples for batch in batches)
