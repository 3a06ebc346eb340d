"""The loader: the frames asked for, exactly, on one rank or many, after a stop, and in spite of damage."""

import gc
import itertools
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nvidia.dali import Pipeline

import res3d_video.pipeline.reader
from res3d_video.pipeline.clip import ClipSpec, frame_indices, num_starts
from res3d_video.pipeline.codecs.h264 import H264Codec
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.graph import DaliEngine
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.loader import ClipLoader, LoaderError, LoaderSettings
from res3d_video.pipeline.plan import EvalPlan, TrainPlan
from res3d_video.pipeline.reader import StepReader
from res3d_video.pipeline.schema import SIZE
from tests.clips import DEVICES, GridPlan, damaged_copy, same, sample_of_length, shown, take, train_plan
from tests.oracle import oracle_clips
from tests.until import until

CHECKOUT = Path(__file__).resolve().parents[2]
GREY_LEVELS = {"cpu": 0.0, "cuda": 4.0}  # a GPU's IDCT and chroma upsampling differ from libjpeg-turbo's and swscale's


def check_every_start(index: ShardIndex, spec: ClipSpec, *, device: str, engine: str) -> None:
    """Starts in every place of a block, in segments of 1 to 505 frames, read back from the pixels."""
    grid = [
        (sample, start, start % 17, (7 * start) % 60, start % 2)
        for length, step in ((1, 1), (7, 1), (17, 1), (40, 1 if index.codec == "h264" else 3), (505, 37))
        for sample in [sample_of_length(index, length)]
        for start in range(0, int(num_starts(spec, video_frames=length)), step)
    ]
    plan = GridPlan(index, spec, grid, batch_size=16)
    with ClipLoader(index, plan, device=device, settings=LoaderSettings(engine=engine)) as loader:
        for step, batch in enumerate(loader):
            planned = plan.batch(step)
            expected = frame_indices(planned.start, spec, video_frames=index.num_frames[planned.sample])
            assert shown(batch, plan, step) == expected.tolist()
            difference = np.abs(batch.clips.float().cpu().numpy() - oracle_clips(index, planned, spec)).mean()
            assert difference <= GREY_LEVELS[device]
        assert (loader.engine, step) == (engine, plan.num_steps - 1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("engine", ["dali", "simple"])
@pytest.mark.parametrize("num_frames", [1, 8, 16, 64])
@pytest.mark.parametrize("frame_stride", [1, 2, 3, 8, 32])
def test_every_start_gives_exactly_the_frames_asked_for(
    numbered: ShardIndex, num_frames: int, frame_stride: int, device: str, engine: str
) -> None:
    check_every_start(numbered, ClipSpec(num_frames, frame_stride), device=device, engine=engine)


@pytest.mark.parametrize("spec", [ClipSpec(), ClipSpec(8, 3), ClipSpec(4, 8, 56, 64)], ids=str)
def test_decoding_whole_pictures_as_a_gpu_does_gives_the_same_clips(numbered: ShardIndex, spec: ClipSpec) -> None:
    plan = TrainPlan(numbered, np.arange(numbered.num_samples), spec, global_batch_size=22, seed=0)
    with ClipLoader(numbered, plan, whole_pictures=True) as loader:
        batch = next(iter(loader))
    reference = oracle_clips(numbered, plan.batch(0), spec)
    assert np.abs(batch.clips.numpy() - reference).max() <= (0.51 if spec.resize else 0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("spec", [ClipSpec(8, 2, 56, 64), ClipSpec(8, 2, 224, 256), ClipSpec(8, 2, 112, 128)], ids=str)
def test_stored_frames_are_scaled_to_the_crop_s_size(shards: ShardIndex, spec: ClipSpec, device: str) -> None:
    sample = sample_of_length(shards, 64)
    room = spec.resize * 171 // 128 - spec.crop_size
    grid = [(sample, start, start % 8, left, start % 2) for start in range(0, 50, 7) for left in (0, room // 2, room)]
    plan = GridPlan(shards, spec, grid, batch_size=8)
    with ClipLoader(shards, plan, device=device) as loader:
        for step, batch in enumerate(loader):
            assert batch.clips.shape[-2:] == (spec.crop_size, spec.crop_size)
            expected = frame_indices(plan.batch(step).start, spec, video_frames=64).tolist()
            assert shown(batch, plan, step) == expected
            reference = oracle_clips(shards, plan.batch(step), spec)
            assert np.abs(batch.clips.float().cpu().numpy() - reference).max() <= 0.51 + 20 * (device == "cuda")


def test_a_batch_is_what_the_plan_says_in_channels_last_memory(shards: ShardIndex) -> None:
    plan = train_plan(shards)
    with ClipLoader(shards, plan, mean=(100.0, 110.0, 120.0), std=2.0) as loader:
        batch = next(iter(loader))
    assert batch.clips.shape == (12, 3, 4, 112, 112)
    assert batch.clips.dtype == torch.float32
    assert batch.clips.is_contiguous(memory_format=torch.channels_last_3d)
    assert np.array_equal(batch.samples, plan.batch(0).sample)
    assert batch.labels.tolist() == shards.labels[batch.samples].tolist()
    assert (batch.step, batch.num_real_global) == (0, 12)
    plain = oracle_clips(shards, plan.batch(0), plan.spec, mean=0.0)
    expected = (plain - np.array([100, 110, 120]).reshape(1, 3, 1, 1, 1)) / 2
    assert np.allclose(batch.clips.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_a_clips_pixels_do_not_depend_on_its_place_in_a_batch(numbered: ShardIndex, device: str) -> None:
    samples = [sample_of_length(numbered, length) for length in (33, 40, 64, 120, 505)]
    clips = [(sample, 3, 5, 11, n % 2) for n, sample in enumerate(samples)]
    grid = [clips[(n + turn) % 5] for turn in range(5) for n in range(5)]
    with ClipLoader(numbered, GridPlan(numbered, ClipSpec(), grid, batch_size=5), device=device) as loader:
        batches = [batch.clips.cpu() for batch in loader]
    for turn, batch in enumerate(batches):
        for n in range(5):
            assert torch.equal(batch[n], batches[0][(n + turn) % 5])


@pytest.mark.parametrize(
    "settings",
    [
        LoaderSettings(num_threads=1, prefetch=1, queue_depth=1, read_ahead=0),
        LoaderSettings(num_threads=4, prefetch=5, queue_depth=3, read_ahead=9, hw_decoder_load=0.0),
        LoaderSettings(engine="simple", num_threads=3),
    ],
    ids=["least", "more", "simple"],
)
@pytest.mark.parametrize("device", DEVICES)
def test_settings_change_nothing_that_is_delivered(shards: ShardIndex, settings: LoaderSettings, device: str) -> None:
    with ClipLoader(shards, train_plan(shards)) as plain:
        expected = take(plain, 5)
    with ClipLoader(shards, train_plan(shards), settings=settings, device=device) as loader:
        for want, got in zip(expected, loader, strict=False):
            assert np.array_equal(got.samples, want.samples)
            assert torch.equal(got.labels.cpu(), want.labels)
            assert (got.clips.float().cpu() - want.clips).abs().mean() <= GREY_LEVELS[device]


def test_the_work_is_that_of_the_batches_handed_out(shards: ShardIndex) -> None:
    plan = train_plan(shards)
    with ClipLoader(shards, plan) as loader:
        batches = take(loader, 3)
        work = loader.work
    frames = size = 0
    for batch in batches:
        wanted = frame_indices(batch.starts, plan.spec, video_frames=shards.num_frames[batch.samples])
        located = shards.stored_as.locate(wanted, blank=np.zeros(len(wanted), bool))
        rows = np.repeat(shards.first_frame[batch.samples], located.count) + located.rows
        frames, size = frames + len(rows), size + int(shards.frames[rows, SIZE].sum())
    pictures = 36 if shards.codec == "filmstrip" else frames
    assert (work.num_clips, work.num_frames, work.num_pictures) == (36, 36 * 4, pictures)
    assert (work.num_frames_decoded, work.num_bytes) == (frames, size)
    assert work.decoded_to_used == frames / (36 * 4)


def test_a_clip_taller_than_a_jpeg_is_refused(numbered: ShardIndex) -> None:
    plan = TrainPlan(numbered, np.arange(2), ClipSpec(512, 1), global_batch_size=2, seed=0)
    with pytest.raises(UserError, match="num_frames must be <= 511 with frames of 128 pixels, .*; got 512"):
        ClipLoader(numbered, plan)
    tallest = TrainPlan(numbered, np.arange(2), ClipSpec(511, 1, 16), global_batch_size=2, seed=0)
    with ClipLoader(numbered, tallest) as loader:
        assert next(iter(loader)).clips.shape == (2, 3, 511, 16, 16)


WITHOUT_DALI = """
import importlib.util, sys
from pathlib import Path
import tests
from res3d_video.pipeline import settings
sys.modules["nvidia.dali"] = None
settings.find_spec = lambda name: None if name == "nvidia.dali" else importlib.util.find_spec(name)
import res3d_video.train.main
from res3d_video.pipeline.index import open_index
from res3d_video.pipeline.loader import ClipLoader
from tests.clips import train_plan
index = open_index(Path(sys.argv[1]))
with ClipLoader(index, train_plan(index)) as loader:
    print(loader.engine, next(iter(loader)).clips.shape[0])
try:
    ClipLoader(index, train_plan(index), settings=settings.LoaderSettings(engine="dali"))
except ValueError as error:
    print(error)
"""


def test_without_dali_the_simple_engine_trains_and_the_package_loads(numbered: ShardIndex) -> None:
    command = [sys.executable, "-c", WITHOUT_DALI, str(numbered.data_dir)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "simple 12"
    assert second.startswith("engine: dali needs nvidia-dali, which is not installed; pip install")


def test_a_batch_keeps_its_pixels_however_many_follow(shards: ShardIndex) -> None:
    """The clips are DALI's own memory; nothing writes there while somebody holds them."""
    with ClipLoader(shards, train_plan(shards)) as loader:
        held = take(loader, 12)
    for batch in held[::3]:
        expected = oracle_clips(shards, train_plan(shards).batch(batch.step), ClipSpec(4, 2))
        assert np.array_equal(batch.clips.numpy(), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_lent_memory_is_not_written_before_a_slow_consumer_has_read_it(shards: ShardIndex) -> None:
    """The GPU is kept busy with matrix products, so that every batch is read long after later ones were decoded."""
    busy = torch.rand(4096, 4096, device="cuda")
    plan = train_plan(shards)
    with ClipLoader(shards, plan, device="cuda") as loader:
        found = []
        for batch in itertools.islice(loader, 40):
            for _ in range(30):
                busy = (busy @ busy).sigmoid()
            found.append((batch.step, batch.clips.float().sum(dim=(1, 2, 3, 4))))
    with ClipLoader(shards, plan, device="cuda") as loader:
        for (_, sums), batch in zip(found, loader, strict=False):
            torch.cuda.synchronize()
            assert torch.equal(sums, batch.clips.float().sum(dim=(1, 2, 3, 4)))


def test_stopping_and_going_on_equals_not_stopping(shards: ShardIndex) -> None:
    with ClipLoader(shards, train_plan(shards)) as loader:
        undisturbed = take(loader, 6)
    with ClipLoader(shards, train_plan(shards)) as loader:
        take(loader, 3)
        state = loader.state_dict()
    with ClipLoader(shards, train_plan(shards)) as loader:
        loader.load_state_dict(state)
        assert all(same(a, b) for a, b in zip(take(loader, 3), undisturbed[3:], strict=True))
        loader.load_state_dict(state)
        assert same(take(loader, 1)[0], undisturbed[3])
    halves = []
    for rank in range(2):  # with another world size, the same global batches
        with ClipLoader(shards, train_plan(shards), rank=rank, world_size=2) as loader:
            loader.load_state_dict(state)
            halves.append(next(iter(loader)))
    assert torch.equal(torch.cat([half.clips for half in halves]), undisturbed[3].clips)


def test_a_state_of_another_plan_is_refused(numbered: ShardIndex) -> None:
    with ClipLoader(numbered, train_plan(numbered)) as loader:
        take(loader, 1)
        state = loader.state_dict()
    with pytest.raises(ValueError, match="seed=0.*this is.*seed=1"):
        ClipLoader(numbered, train_plan(numbered, seed=1)).load_state_dict(state)
    with pytest.raises(ValueError, match="5 does not divide the 12 clips already read; choose 12"):
        ClipLoader(numbered, train_plan(numbered, global_batch_size=5)).load_state_dict(state)
    six = ClipLoader(numbered, train_plan(numbered, global_batch_size=6))
    six.load_state_dict(state)
    assert six.state_dict()["position"] == 12


def test_an_evaluation_ends_and_can_be_run_again(shards: ShardIndex) -> None:
    plan = EvalPlan(shards, np.arange(5), ClipSpec(4, 2), global_batch_size=4, num_views=3)
    with ClipLoader(shards, plan) as loader:
        first, second = list(loader), list(loader)
    assert [b.num_real_global for b in first] == [4, 4, 4, 3]
    assert sum(float(b.weights.sum()) for b in first) == 15
    assert all(same(a, b) for a, b in zip(first, second, strict=True))


def damaged_so_that(
    found_by: str, index: ShardIndex, folder: Path, sample: int, patch: pytest.MonkeyPatch
) -> ShardIndex:
    """A copy with a damaged sample that the checksum, the form or the decoder refuses."""
    if index.codec == "filmstrip" and found_by != "checksum":
        pytest.skip("a tile has no form of its own, and decoders fill in what is broken in it")
    if found_by == "decoder":
        patch.setattr(H264Codec, "faults", lambda codec, data, rows: {})
    return damaged_copy(index, folder, sample, fix_checksum=found_by != "checksum")


@pytest.mark.parametrize("found_by", ["checksum", "form", "decoder"])
def test_a_bad_sample_is_replaced_by_the_plan_s_next_on_every_rank_and_counted(
    shards: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found_by: str
) -> None:
    bad = sample_of_length(shards, 64)
    index = damaged_so_that(found_by, shards, tmp_path / "data", bad, monkeypatch)
    plan = train_plan(index)
    with ClipLoader(index, plan) as loader:
        batches = take(loader, 4)
        assert loader.bad_samples == [index.key(bad)]
        assert loader.num_replaced == sum(int((plan.batch(s).sample == bad).sum()) for s in range(4)) > 0
    for step, batch in enumerate(batches):
        planned = plan.batch(step)
        assert bad not in batch.samples
        following = [int(plan.replacement(planned[n : n + 1], 1).sample[0]) for n in range(len(planned))]
        expected = np.where(planned.sample == bad, following, planned.sample)
        assert batch.samples.tolist() == expected.tolist()
        assert batch.labels.tolist() == index.labels[expected].tolist()
    for rank in range(2):
        with ClipLoader(index, train_plan(index), rank=rank, world_size=2) as loader:
            half = take(loader, 4)
        for whole, part in zip(batches, half, strict=True):
            assert torch.equal(whole.clips[rank * 6 : rank * 6 + 6], part.clips)


def test_what_takes_the_place_of_a_damaged_clip_depends_on_nothing_read_before(
    shards: ShardIndex, tmp_path: Path
) -> None:
    bad = sample_of_length(shards, 33)
    index = damaged_copy(shards, tmp_path / "data", bad, fix_checksum=False, most=1)
    plan = train_plan(index)

    def read(steps: Iterable[int], rows: slice = slice(0, 12)) -> list[tuple[list[int], dict[int, str]]]:
        reader = StepReader(index, plan, rows=rows)
        return [(done.clips.sample.tolist(), done.damaged) for done in map(reader.read, steps)]

    in_order = read(range(20))
    num_planned = sum(int((plan.batch(step).sample == bad).sum()) for step in range(20))
    num_kept = sum(samples.count(bad) for samples, _ in in_order)
    assert 0 < num_kept < num_planned, "some clips of the sample are whole, some are not"
    assert {row for _, damaged in in_order for row in damaged} == {bad}
    assert [read([step])[0] for step in range(20)] == in_order
    halves = [read(range(20), rows) for rows in (slice(0, 6), slice(6, 12))]
    assert [(a + b, x | y) for (a, x), (b, y) in zip(*halves, strict=True)] == in_order


@pytest.mark.parametrize("num_crops", [1, 3])
@pytest.mark.parametrize("found_by", ["checksum", "form", "decoder"])
def test_a_bad_test_video_gets_no_weight_and_no_stand_in(
    shards: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found_by: str, num_crops: int
) -> None:
    bad = sample_of_length(shards, 40)
    index = damaged_so_that(found_by, shards, tmp_path / "data", bad, monkeypatch)
    samples, size = np.arange(index.num_samples), 4 * num_crops
    plan = EvalPlan(index, samples, ClipSpec(4, 2), global_batch_size=size, num_crops=num_crops)
    with ClipLoader(index, plan) as loader:
        batches = list(loader)
        assert loader.num_replaced == 1
    scored = [s for b in batches for s, w in zip(b.samples.tolist(), b.weights.tolist(), strict=True) if w]
    assert scored == [s for s in range(index.num_samples) if s != bad for _ in range(num_crops)]


def test_data_that_is_damaged_throughout_ends_with_a_way_out(shards: ShardIndex, tmp_path: Path) -> None:
    shutil.copytree(shards.data_dir, tmp_path / "data")
    for tar in (tmp_path / "data").glob("*.tar"):
        tar.write_bytes(bytes(tar.stat().st_size))
    index = open_index(tmp_path / "data")
    with (
        ClipLoader(index, train_plan(index)) as loader,
        pytest.raises(LoaderError, match="samples in a row are damaged; run tools/check_shards.py"),
    ):
        next(iter(loader))


def test_an_error_that_is_not_the_data_s_reaches_the_caller(shards: ShardIndex) -> None:
    plan = train_plan(shards)
    plan.batch = lambda step: SimpleNamespace()  # type: ignore[method-assign, assignment]
    with ClipLoader(shards, plan) as loader, pytest.raises(TypeError):
        next(iter(loader))


def test_closing_ends_the_thread_and_leaves_no_pipeline_to_the_garbage_collector(
    shards: ShardIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is left may be collected in a forked process, as torch's DataLoader makes them, and hang it."""
    built, build = [], DaliEngine.build

    def watched(self: DaliEngine, *, queue_depth: int) -> Pipeline:
        pipe = build(self, queue_depth=queue_depth)
        built.append(weakref.ref(pipe))
        return pipe

    monkeypatch.setattr(DaliEngine, "build", watched)
    ClipLoader(shards, train_plan(shards)).close()  # never used
    gc.collect()
    gc.disable()
    try:
        with ClipLoader(shards, train_plan(shards), settings=LoaderSettings(num_pipelines=2)) as loader:
            take(loader, 4)
            thread = loader._prefetcher._thread
        assert not thread.is_alive()
        assert [pipe() for pipe in built] == [None, None]
    finally:
        gc.enable()


def test_a_loader_whose_disk_hangs_can_be_closed(numbered: ShardIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, is_reading = threading.Event(), threading.Event()

    def hang(*place: object, size: int) -> bool:
        is_reading.set()
        goes_on.wait()
        return False

    settings = LoaderSettings(prefetch=1, queue_depth=1, read_ahead=0, stall_timeout_s=3)
    with ClipLoader(numbered, train_plan(numbered), settings=settings) as loader:
        next(iter(loader))
        until(loader._prefetcher._ready.full)  # type: ignore[union-attr]
        monkeypatch.setattr(res3d_video.pipeline.reader, "read_into", hang)
        next(iter(loader))  # is there, and makes room for those that hang
        assert is_reading.wait(timeout=30)
    goes_on.set()
