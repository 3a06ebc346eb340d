"""The loader on H.264 shards: exact frames from every start, in streams of one clip or many, and no packet too many."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.codecs import UndecodableError
from res3d_video.pipeline.codecs.avc import SoftwareDecoder, parameter_sets
from res3d_video.pipeline.index import ShardError, ShardIndex
from res3d_video.pipeline.loader import ClipLoader, LoaderSettings
from res3d_video.pipeline.plan import EvalPlan, TrainPlan
from tests.clips import DEVICES, train_plan
from tests.conftest import build_numbered
from tests.hostile.pictures import sps_of
from tests.hostile.tampering import bounded_memory
from tests.oracle import oracle_clips
from tests.pipeline.test_loader import GREY_LEVELS, check_every_start

OTHER_GOPS = [pytest.param(gop, marks=pytest.mark.long) for gop in (4, 16)]


@pytest.fixture(scope="module", params=[8, *OTHER_GOPS], ids=lambda gop: f"gop{gop}")
def any_gop(request: pytest.FixtureRequest, numbered_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    if request.param == 8:
        return request.getfixturevalue("numbered_h264")
    out = tmp_path_factory.mktemp(f"gop{request.param}")
    return build_numbered(numbered_raw, out, codec="h264", gop_size=request.param)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_frames", [4, 8])
@pytest.mark.parametrize("frame_stride", [1, 2, 4, 8, 32])
def test_every_start_gives_exactly_the_frames_asked_for(
    any_gop: ShardIndex, num_frames: int, frame_stride: int, device: str
) -> None:
    """On a GPU a batch is two streams of eight clips, short and blank ones among them."""
    check_every_start(any_gop, ClipSpec(num_frames, frame_stride), device=device, engine="dali")


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
    with bounded_memory(limit=300 * 2**20), pytest.raises(UndecodableError):
        decoder.decode([np.frombuffer(bytes.fromhex(codec["blank"]), np.uint8)])
