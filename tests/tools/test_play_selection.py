"""The clips that are shown are those that training and an evaluation take, and what the network gets of them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.augment import NONE, Augmentation
from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.convert.run import BuildSettings, build_shards
from res3d_video.pipeline.datasets import list_folder
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.loader import ClipLoader
from res3d_video.pipeline.plan import EvalPlan, PlannedClips
from res3d_video.tools import playing
from res3d_video.tools.numbered import write_numbered_video
from res3d_video.tools.playing import (
    clip_frames,
    describe_clips,
    find_sample,
    network_input,
    random_sample,
    select_clips,
)
from res3d_video.train.config import TrainConfig, train_plan
from tests.clips import sample_of_length

SMALL = TrainConfig(global_batch_size=4, seed=7, clip=ClipSpec(8, 2), mean=(120.0, 118.0, 110.0), std=50.0)


def assert_same(clips: PlannedClips, others: PlannedClips) -> None:
    for name, value in vars(clips).items():
        np.testing.assert_array_equal(value, getattr(others, name))


def on_test_side(index: ShardIndex, *lengths: int) -> ShardIndex:
    subsets = np.ones_like(index.subsets)
    subsets[[sample_of_length(index, length) for length in lengths]] = 2
    return dataclasses.replace(index, subsets=subsets)


def test_a_sample_is_found_by_its_key_its_video_and_a_part_that_no_other_has(numbered: ShardIndex) -> None:
    for row in range(numbered.num_samples):
        path = Path(numbered.source(row))
        for name in (numbered.key(row), path.stem, str(path), path.stem[:4]):
            assert find_sample(numbered, name) == row
    for first in (b"a/walk.avi", b"walk.avi"):  # a whole name goes before names that begin with it
        names = [b"a/walk2.avi", b"a/moonwalk.avi", *(b"b/x%d.avi" % n for n in range(8))]
        assert find_sample(dataclasses.replace(numbered, sources=np.array([first, *names])), "walk") == 0


def test_every_clip_of_three_epochs_is_the_one_that_training_takes(numbered: ShardIndex) -> None:
    plan = train_plan(numbered, SMALL)
    seen = []
    for sample in numbered.samples_of("1", "train").tolist():
        clips = select_clips(numbered, SMALL, sample, num_clips=3)
        for n, described in enumerate(describe_clips(numbered, SMALL, clips)):
            batch = plan.batch(described["step"])
            assert_same(clips[n : n + 1], batch[batch.position == clips.position[n]])
            assert (clips.sample[n], described["epoch"]) == (sample, n)
        seen += clips.position.tolist()
    assert sorted(seen) == list(range(30))
    unused = dataclasses.replace(numbered, subsets=np.zeros_like(numbered.subsets))
    with pytest.raises(ValueError, match="split 1 does not use it; choose another --split, or --segment$"):
        select_clips(unused, SMALL, 0)


def test_any_sample_is_one_that_is_trained_on_where_clips_are_augmented(numbered: ShardIndex) -> None:
    index = on_test_side(numbered, 120, 505, 7)
    augmented = dataclasses.replace(SMALL, augment=Augmentation(erasing=0.5))
    kinds: dict[str | None, set[int]] = {"test": {2}, "train": {1}, None: {1}}
    for side, kind in kinds.items():
        taken = [random_sample(index, augmented, side=side, class_name=None, step=None) for _ in range(40)]
        assert {int(index.subsets[sample, 0]) for sample in taken} == kind


@pytest.mark.parametrize("num_clips", [1, 3, 10])
def test_views_are_those_of_an_evaluation(numbered: ShardIndex, num_clips: int) -> None:
    index = on_test_side(numbered, 120, 505, 7)
    samples = index.samples_of("1", "test")
    scored = EvalPlan(index, samples, SMALL.clip, global_batch_size=3 * num_clips, num_views=num_clips).batch(0)
    for sample in samples.tolist():
        clips, own = select_clips(index, SMALL, sample, num_clips=num_clips), scored[scored.sample == sample]
        assert_same(dataclasses.replace(clips, position=own.position), own)
        assert [clip["view"] for clip in describe_clips(index, SMALL, clips)] == list(range(num_clips))


@pytest.mark.parametrize("augment", [NONE, Augmentation((0.2, 1), color_jitter=(0.4, 0.4, 0.4, 0.1), erasing=0.5)])
@pytest.mark.parametrize("resize", [None, 64])
def test_what_the_network_gets_is_what_its_loader_gives(
    shards: ShardIndex, resize: int | None, augment: Augmentation
) -> None:
    clip = ClipSpec(8, 2, crop_size=56 if resize else 112, resize=resize)
    config = dataclasses.replace(SMALL, clip=clip, augment=augment)
    with ClipLoader(shards, train_plan(shards, config), mean=config.mean, std=config.std) as loader:
        batch = next(iter(loader))
        pixels = batch.clips.permute(0, 2, 3, 4, 1).numpy() * 50 + np.array(config.mean)  # NTHWC
    for row, sample in enumerate(batch.samples.tolist()):
        clips = select_clips(shards, config, sample, step=0)
        np.testing.assert_allclose(network_input(shards, config, clips)[0], np.clip(pixels[row], 0, 255), atol=0.501)
        assert clip_frames(shards, config, clips)[0, 0] == batch.starts[row]
        assert ("color" in describe_clips(shards, config, clips)[0]) == augment.is_on


def test_padding_is_cut_off_and_dropped_frames_are_counted(tmp_path: Path) -> None:
    """Kept aspect: a picture lies inside its tile. Every other frame: stored frame 3 is the source's frame 6."""
    (tmp_path / "raw/a").mkdir(parents=True)
    write_numbered_video(tmp_path / "raw/a/tall.mp4", 12, height=320, width=240)
    listing = list_folder(tmp_path / "raw", name="tall")
    build_shards(listing, tmp_path / "shards", BuildSettings(keep_aspect=True, drop_odd=True), workers=1)
    index = open_index(tmp_path / "shards")
    metadata = playing.sample_metadata(index, 0)
    assert playing.stored_frames(index, 0, np.array([3])).shape == (1, metadata["height"], metadata["width"], 3)
    config = TrainConfig(clip=ClipSpec(3, 4, crop_size=96))
    clips = select_clips(index, config, 0)
    (clip,) = describe_clips(index, config, clips)
    assert clip["frames"] == (2 * clip_frames(index, config, clips)[0]).tolist()
    assert np.diff(clip["frames"]).tolist() == [4, 4]
