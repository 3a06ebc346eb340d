"""Augmentation: what a position draws, the same pixels from every engine, and several crops of one read."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from res3d_video.pipeline.augment import NONE, WORDS, Augmentation, draw
from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import list_folder
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.loader import ClipLoader, LoaderSettings
from res3d_video.pipeline.plan import EvalPlan, TrainPlan
from res3d_video.tools.make_demo_videos import main as make_demo_videos
from tests.clips import DEVICES, GridPlan, same, take
from tests.tools.commands import run

OPERATORS = {
    "nothing": NONE,
    "random resized crop": Augmentation(random_resized_crop=(0.08, 1)),
    "scale jitter": Augmentation(scale_jitter=(112, 200)),
    "color": Augmentation(color_jitter=(0.4, 0.4, 0.4, 0.1)),
    "grayscale": Augmentation(grayscale=0.5),
    "erasing": Augmentation(erasing=0.7),
    "all": Augmentation((0.2, 1), color_jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2, erasing=0.5),
}
# Least PSNR of a clip against the simple engine's, dB. DALI cuts H.264 frames by warp_affine, which does not smooth.
LEAST_PSNR = {"filmstrip": 50.0, "h264": 38.0}


def drawn(
    augmentation: Augmentation, *, height: int, width: int, crop_size: int = 112, count: int = 20_000
) -> np.ndarray:
    words = np.random.default_rng(0).integers(0, 2**64, (count, WORDS), dtype=np.uint64)
    return draw(words, augmentation, sizes=np.tile([height, width], (count, 1)), crop_size=crop_size)


@pytest.mark.parametrize(("height", "width"), [(128, 171), (171, 128), (128, 128), (128, 400), (500, 112)])
@pytest.mark.parametrize("area", [(0.08, 1.0), (0.5, 0.5), (0.9, 1.0), (1e-4, 1e-4)])
def test_resized_crops_lie_in_the_picture_and_have_the_area_and_ratio_asked_for(
    height: int, width: int, area: tuple[float, float]
) -> None:
    found = drawn(Augmentation(random_resized_crop=area), height=height, width=width)
    pieces = np.stack([found["height"], found["width"]], axis=1).astype(float)
    assert (pieces >= 1).all()
    assert (pieces <= [height, width]).all()
    low, high = pieces - 0.5, pieces + 0.5  # before rounding to whole pixels
    assert (high[:, 1] / low[:, 0] >= 3 / 4).all()
    assert (low[:, 1] / high[:, 0] <= 4 / 3).all()
    fits = (high.prod(axis=1) >= area[0] * height * width) & (low.prod(axis=1) <= area[1] * height * width)
    largest = (pieces == np.minimum([height, width], np.rint([width * 4 / 3, height * 4 / 3]))).all(axis=1)
    assert (fits | largest).all()
    if area == (0.08, 1.0) and max(height, width) < 200:
        assert pieces.prod(axis=1).min() < 0.1 * height * width
        assert pieces.prod(axis=1).max() > 0.8 * height * width


def test_every_draw_stays_in_its_range_and_reaches_all_of_it() -> None:
    found = drawn(OPERATORS["all"], height=128, width=171)
    for i, (least, most) in enumerate([(0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-36, 36)]):
        values = found["color"][:, i]
        values = values[values != 0] if i == 2 else values
        assert least <= values.min() < least + 0.01 * abs(least)
        assert most * 0.99 < values.max() <= most
    assert np.isclose((found["color"][:, 2] == 0).mean(), 0.2, atol=0.02)
    erased = found["erased"][found["erased"][:, 2] > 0]
    assert np.isclose(len(erased) / len(found), 0.5, atol=0.02)
    assert erased[:, :2].min() == 0
    assert (erased[:, :2] + erased[:, 2:]).max() == 112
    area = erased[:, 2:].prod(axis=1) / 112**2
    assert 0.018 < area.min() < 0.025
    assert 0.3 < area.max() < 0.35
    jittered = drawn(Augmentation(scale_jitter=(128, 256)), height=128, width=171)
    assert (jittered["height"] == jittered["width"]).all()
    assert {*jittered["height"].tolist()} == {*range(56, 113)}  # of a short side of 256 to 128 pixels


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"random_resized_crop": (0.5, 0.2)},
            "random_resized_crop must be two rising numbers from 0 to 1, got 0.5 0.2",
        ),
        (
            {"random_resized_crop": (0.5, 1.1)},
            "random_resized_crop must be two rising numbers from 0 to 1, got 0.5 1.1",
        ),
        ({"crop_ratio": (0.0, 0.0)}, "crop_ratio must be two rising numbers from 0 to 100, got 0 0"),
        ({"scale_jitter": (0, 128)}, "scale_jitter must be two rising numbers from 0 to 4096, got 0 128"),
        ({"scale_jitter": (128, 160), "random_resized_crop": (0.5, 1)}, "both choose the crop"),
        (
            {"color_jitter": (0.4, 0.4, 0.4, 0.6)},
            "color_jitter must be three numbers from 0 to 1 and one from 0 to 0.5, got 0.4 0.4 0.4 0.6",
        ),
        (
            {"color_jitter": (float("nan"), 0, 0, 0)},
            "color_jitter must be three numbers from 0 to 1 and one from 0 to 0.5, got nan 0 0 0",
        ),
        ({"grayscale": 1.5}, "grayscale must be 0 to 1, got 1.5"),
        ({"erasing": -0.1}, "erasing must be 0 to 1, got -0.1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(settings: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Augmentation(**settings)


def plan_of(index: ShardIndex, augmentation: Augmentation, spec: ClipSpec | None = None, **more: int) -> TrainPlan:
    given = {"global_batch_size": 6, "seed": 3} | more
    return TrainPlan(index, index.samples_of("1", "train"), spec or ClipSpec(4, 2), augmentation=augmentation, **given)


def test_a_jitter_below_the_crop_is_refused(numbered: ShardIndex) -> None:
    with pytest.raises(UserError, match="scale_jitter must be >= crop_size, which is 112, got 100"):
        plan_of(numbered, Augmentation(scale_jitter=(100, 128)))


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_changes_nothing_else_of_the_plan(numbered: ShardIndex, name: str) -> None:
    plain, plan = plan_of(numbered, NONE), plan_of(numbered, OPERATORS[name])
    assert (plan.identity == plain.identity) == (name == "nothing")
    for step in range(8):
        ours, theirs = plan.batch(step), plain.batch(step)
        for field in ("position", "sample", "start", "flip", "label_draw"):
            assert np.array_equal(getattr(ours, field), getattr(theirs, field))
        if not OPERATORS[name].resizes:
            assert np.array_equal(ours.top, theirs.top)
            assert np.array_equal(ours.left, theirs.left)


def test_a_position_draws_the_same_for_every_batch_size_and_slice(numbered: ShardIndex) -> None:
    long, short = (plan_of(numbered, OPERATORS["all"], global_batch_size=size) for size in (24, 8))
    for field in ("augmented", "top", "left"):
        parts = [getattr(short.batch(step), field) for step in range(3)]
        assert np.array_equal(np.concatenate(parts), getattr(long.batch(0), field))
    clip = long.batch(0)[5:6]
    assert np.array_equal(long.replacement(clip, 0).augmented, clip.augmented)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ShardIndex]:
    """Colored scenes with texture and moving shapes, as shards of a codec."""
    folder = tmp_path_factory.mktemp("scenes")
    run(make_demo_videos, "--out", folder / "raw", "--videos-per-class", "1")
    for codec in LEAST_PSNR:
        build_shards(list_folder(folder / "raw"), folder / codec, BuildSettings(codec=codec), workers=2)
    return lambda codec: open_index(folder / codec)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("spec", [ClipSpec(4, 2), ClipSpec(4, 2, 56, 64)], ids=["as stored", "resized"])
@pytest.mark.parametrize("codec", LEAST_PSNR)
@pytest.mark.parametrize("name", OPERATORS)
def test_dali_gives_what_the_simple_engine_gives(
    scenes: Callable[[str], ShardIndex], name: str, codec: str, spec: ClipSpec, device: str
) -> None:
    """Of 24 draws each. Other decoders and fp16 on a GPU: a bound that a wrong crop, color or box would miss by far."""
    least = 28.0 if device == "cuda" else LEAST_PSNR[codec]
    plan, found = plan_of(scenes(codec), OPERATORS[name], spec), []
    for engine, where in (("dali", device), ("simple", "cpu")):
        with ClipLoader(plan.index, plan, device=where, settings=LoaderSettings(engine=engine)) as loader:
            found.append(torch.cat([batch.clips.float().cpu().clone() for batch in take(loader, 4)]))
    error = (found[0] - found[1]).square().mean(dim=(1, 2, 3, 4))
    assert 10 * torch.log10(255**2 / error.max()) >= least
    plain = plan_of(plan.index, NONE, spec)
    with ClipLoader(plan.index, plain, settings=LoaderSettings(engine="simple")) as loader:
        unchanged = torch.cat([batch.clips.clone() for batch in take(loader, 4)])
    assert torch.equal(found[1], unchanged) == (name == "nothing")


@pytest.mark.parametrize("engine", ["dali", "simple"])
def test_ranks_together_draw_what_one_rank_draws_and_a_stop_changes_nothing(shards: ShardIndex, engine: str) -> None:
    settings = LoaderSettings(engine=engine)
    plan = plan_of(shards, OPERATORS["all"])
    with ClipLoader(shards, plan, settings=settings) as loader:
        alone = [batch.clips.clone() for batch in take(loader, 4)]
    for world_size in (2, 3):
        parts = []
        for rank in range(world_size):
            with ClipLoader(shards, plan, rank=rank, world_size=world_size, settings=settings) as loader:
                parts.append([batch.clips.clone() for batch in take(loader, 2)])
                state = loader.state_dict()
            with ClipLoader(shards, plan, rank=rank, world_size=world_size, settings=settings) as loader:
                loader.load_state_dict(state)
                parts[-1] += [batch.clips.clone() for batch in take(loader, 2)]
        for step, whole in enumerate(alone):
            assert torch.equal(torch.cat([part[step] for part in parts]), whole)


@pytest.mark.parametrize("clips_per_stream", [2, 3, 4])
@pytest.mark.parametrize("name", ["random resized crop", "all"])
def test_clips_joined_in_streams_are_changed_each_in_its_own_way(
    numbered_h264: ShardIndex, name: str, clips_per_stream: int
) -> None:
    """As on a GPU, where a stream holds many clips; the last one may hold fewer."""
    plan, found = plan_of(numbered_h264, OPERATORS[name], global_batch_size=7), []
    for joined in (1, clips_per_stream):
        loader = ClipLoader(numbered_h264, plan)
        loader.decoder.clips_per_stream = joined
        with loader:
            found.append([batch.clips.clone() for batch in take(loader, 3)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# Three crops of one read


@pytest.mark.parametrize("engine", ["dali", "simple"])
@pytest.mark.parametrize("spec", [ClipSpec(4, 2), ClipSpec(4, 2, 56, 64)], ids=["as stored", "resized"])
def test_crops_lie_along_the_longer_side_and_their_frames_are_read_once(
    shards: ShardIndex, spec: ClipSpec, engine: str
) -> None:
    settings, samples = LoaderSettings(engine=engine), shards.samples_of("1", "train")[:3]
    plan = EvalPlan(shards, samples, spec, global_batch_size=12, num_views=2, num_crops=3)
    assert (plan.num_clips, plan.num_steps) == (18, 2)
    scale = (spec.resize or 128) / 128
    room = int(171 * scale) - spec.crop_size, int(128 * scale) - spec.crop_size
    grid = []
    for step in range(plan.num_steps):
        clips = plan.batch(step)
        assert np.array_equal(clips.view[clips.weight > 0] % 3, clips.position[clips.weight > 0] % 3)
        assert clips.left.tolist() == [0, room[0] // 2, room[0]] * 4
        assert (clips.top == room[1] // 2).all()
        assert (clips.start.reshape(4, 3) == clips.start.reshape(4, 3)[:, :1]).all()
        grid += zip(clips.sample, clips.start, clips.top, clips.left, clips.flip, strict=True)
    apart = GridPlan(shards, spec, grid, batch_size=12)
    with ClipLoader(shards, plan, settings=settings) as loader, ClipLoader(shards, apart, settings=settings) as other:
        for ours, theirs in zip(loader, other, strict=True):
            assert same(ours, theirs)
            assert (ours.work.num_clips, theirs.work.num_clips) == (4, 12)
            assert 3 * ours.work.num_frames_decoded == theirs.work.num_frames_decoded
        assert ours.weights.tolist() == [1] * 6 + [0] * 6
