"""The clips shown are those the trainer and an evaluation take, and what the network gets of them."""

import dataclasses

import numpy as np
import pytest

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import ClipLoader
from res3d_video.pipeline.plan import EvalPlan
from res3d_video.tools.playing.planned import (
    frames_of,
    network_input,
    scored_clips,
    side_of,
    training_clips,
)
from res3d_video.train.config import TrainConfig, train_plan
from tests.clips import sample_of_length
from tests.oracle import oracle_clips

SMALL = TrainConfig(global_batch_size=4, seed=7, clip=ClipSpec(8, 2), mean=(120.0, 118.0, 110.0), std=50.0)


def test_every_clip_of_three_epochs_is_the_one_that_training_takes(numbered: ShardIndex) -> None:
    plan = train_plan(numbered, SMALL)
    batches = {step: plan.batch(step) for step in range(8)}  # 32 positions, ten an epoch
    seen = []
    for epoch in range(3):
        for sample in numbered.samples_of("1", "train"):
            taken = training_clips(numbered, plan, int(sample), epoch=epoch)
            (step,), (row,) = taken.steps, taken.clips.position % 4
            planned = batches[int(step)]
            assert taken.epochs.tolist() == [epoch]
            assert planned.sample[row] == sample
            for name in ("position", "start", "top", "left", "flip"):
                assert getattr(planned, name)[row] == getattr(taken.clips, name)[0]
            seen.append(int(taken.clips.position[0]))
    assert sorted(seen) == list(range(30))


def test_without_step_and_epoch_it_is_the_first_clip_of_all(numbered: ShardIndex) -> None:
    plan = train_plan(numbered, SMALL)
    for sample in map(int, numbered.samples_of("1", "train")):
        first = next(step for step in range(3) if sample in plan.batch(step).sample)
        assert training_clips(numbered, plan, sample).steps.tolist() == [first]


def test_all_clips_of_a_step_are_taken_and_another_step_names_the_next(numbered: ShardIndex) -> None:
    for batch_size in (1, 4, 7, 25):
        plan = train_plan(numbered, dataclasses.replace(SMALL, global_batch_size=batch_size))
        sample = sample_of_length(numbered, 64)
        has = [int((plan.batch(step).sample == sample).sum()) for step in range(45)]
        for step in range(20):
            if has[step]:
                assert len(training_clips(numbered, plan, sample, step=step)) == has[step]
            else:
                coming = next(s for s in range(step, 45) if has[s])
                with pytest.raises(ValueError, match=rf"^--step: {step} .* step {coming} is the next that does$"):
                    training_clips(numbered, plan, sample, step=step)


def test_flips_come_and_go_with_the_epochs_unless_they_are_off(numbered: ShardIndex) -> None:
    sample = sample_of_length(numbered, 64)
    for flip, expected in ((True, {False, True}), (False, {False})):
        plan = train_plan(numbered, dataclasses.replace(SMALL, flip=flip))
        flips = {bool(training_clips(numbered, plan, sample, epoch=epoch).clips.flip[0]) for epoch in range(10)}
        assert flips == expected


def on_test_side(index: ShardIndex, *lengths: int) -> ShardIndex:
    subsets = np.ones_like(index.subsets)
    subsets[[sample_of_length(index, length) for length in lengths]] = 2
    return dataclasses.replace(index, subsets=subsets)


@pytest.mark.parametrize("num_clips", [1, 3, 10])
def test_views_are_those_of_an_evaluation(numbered: ShardIndex, num_clips: int) -> None:
    index = on_test_side(numbered, 120, 505, 7)
    samples = index.samples_of("1", "test")
    plan = EvalPlan(index, samples, SMALL.clip, global_batch_size=3 * num_clips, num_views=num_clips)
    for sample in map(int, samples):
        taken = scored_clips(index, SMALL, sample, num_clips=num_clips)
        mine = plan.batch(0).sample == sample
        for name in ("sample", "start", "top", "left", "flip", "view"):
            np.testing.assert_array_equal(getattr(taken.clips, name), getattr(plan.batch(0), name)[mine])
        for view in range(num_clips):
            one = scored_clips(index, SMALL, sample, num_clips=num_clips, view=view)
            assert (one.clips.start, one.clips.view) == (taken.clips.start[view], view)


def test_segments_of_a_video_share_its_views(numbered: ShardIndex) -> None:
    index = on_test_side(numbered, 120, 505, 64)
    index = dataclasses.replace(index, sources=np.array([b"one/video.mp4"] * index.num_samples))
    assert len(scored_clips(index, SMALL, sample_of_length(index, 120), num_clips=10)) == 3  # 10 // 3
    with pytest.raises(ValueError, match="gives .* view 0 alone"):
        scored_clips(index, SMALL, sample_of_length(index, 120), num_clips=3, view=1)


def test_a_sample_is_on_the_side_that_its_split_says(numbered: ShardIndex) -> None:
    index = on_test_side(numbered, 120)
    assert [side_of(index, sample_of_length(index, n), split="1", side=None) for n in (120, 64)] == ["test", "train"]
    unused = dataclasses.replace(index, subsets=np.zeros_like(index.subsets))
    with pytest.raises(ValueError, match="split 1 does not use it; choose another --split, or --stage segment$"):
        side_of(unused, 0, split="1", side=None)


@pytest.mark.parametrize("resize", [None, 64])
def test_what_the_network_gets_is_what_its_loader_gives(shards: ShardIndex, resize: int | None) -> None:
    clip = ClipSpec(8, 2, crop_size=56 if resize else 112, resize=resize)
    config = dataclasses.replace(SMALL, clip=clip)
    plan = train_plan(shards, config)
    with ClipLoader(shards, plan, mean=config.mean, std=config.std) as loader:
        batch = next(iter(loader))
        trained = batch.clips.permute(0, 2, 3, 4, 1).numpy().copy()  # NTHWC
    for row, sample in enumerate(batch.samples.tolist()):
        taken = training_clips(shards, plan, sample, step=0)
        np.testing.assert_array_equal(network_input(shards, config, taken.clips)[0], trained[row])
        frames = frames_of(shards, clip, taken.clips)
        assert frames[0, 0] == batch.starts[row]
    expected = oracle_clips(shards, plan.batch(0), clip, mean=config.mean, std=config.std)
    np.testing.assert_allclose(trained, expected.transpose(0, 2, 3, 4, 1), atol=3.5 / 50)
