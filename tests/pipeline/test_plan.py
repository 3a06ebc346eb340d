"""Which clips, in which order, on which rank."""

import hashlib
from collections.abc import Callable
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.plan import (
    EvalPlan,
    TrainPlan,
    drawn_labels,
    picture_sizes,
    rank_rows,
    window_order,
)


def fake_index(num_samples: int = 50, *, num_tars: int = 7, frame_step: int = 1) -> SimpleNamespace:
    """What a plan asks of an index."""
    lengths = np.random.default_rng(0).integers(1, 60, num_samples).astype(np.int32)
    tars = np.sort(np.random.default_rng(1).integers(0, num_tars, num_samples))
    return SimpleNamespace(
        name="fake",
        fingerprint="f",
        frame_step=frame_step,
        size=128,
        num_frames=lengths,
        content=np.tile(np.array([0, 0, 171, 128], np.int16), (num_samples, 1)),
        tar_of=lambda samples: tars[samples],
    )


def train_plan(*, global_batch_size: int = 24, seed: int = 3, num_samples: int = 50, **options: object) -> TrainPlan:
    return TrainPlan(
        fake_index(num_samples),
        np.arange(num_samples),
        ClipSpec(),
        global_batch_size=global_batch_size,
        seed=seed,
        **options,
    )


def stream(plan: TrainPlan, num_clips: int) -> list[tuple]:
    """The first clips of a plan, one tuple each."""
    steps = -(-num_clips // plan.global_batch_size)
    batches = [plan.batch(step) for step in range(steps)]
    columns = ("position", "sample", "start", "top", "left", "flip")
    return list(zip(*(np.concatenate([getattr(b, c) for b in batches]).tolist() for c in columns), strict=True))[
        :num_clips
    ]


def test_the_order_is_the_same_for_every_world_size() -> None:
    plan = train_plan()
    whole = [plan.batch(step) for step in range(10)]
    for world_size in (1, 2, 3, 8):
        for step, batch in enumerate(whole):
            slices = [plan.batch(step)[rank_rows(24, rank=r, world_size=world_size)] for r in range(world_size)]
            assert len({len(s) for s in slices}) == 1, "every rank takes equal steps"
            for name, value in vars(batch).items():
                assert np.array_equal(value, np.concatenate([getattr(s, name) for s in slices]))


@settings(max_examples=30, deadline=None)
@given(first=st.integers(1, 70), second=st.integers(1, 70), seed=st.integers(0, 2**63 - 1))
def test_what_a_position_draws_does_not_depend_on_the_batch_size(first: int, second: int, seed: int) -> None:
    assert stream(train_plan(global_batch_size=first, seed=seed), 200) == stream(
        train_plan(global_batch_size=second, seed=seed), 200
    )


@pytest.mark.parametrize("window", [None, 1, 3, 100])
def test_every_sample_comes_once_an_epoch(window: int | None) -> None:
    clips = stream(train_plan(shuffle_window=window), 200)
    epochs = [[clip[1] for clip in clips[e * 50 : (e + 1) * 50]] for e in range(4)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4, "epochs have orders of their own"


def test_seeds_and_epochs_draw_different_clips() -> None:
    assert stream(train_plan(seed=1), 100) != stream(train_plan(seed=2), 100)
    clips = stream(train_plan(num_samples=10), 400)
    draws = {}
    for position, sample, *draw in clips:
        draws.setdefault(sample, set()).add(tuple(draw))
        assert position // 10 < 40
    assert min(len(d) for d in draws.values()) > 30, "a sample's start, crop and flip are redrawn each epoch"


def test_starts_crops_and_flips_stay_inside_and_reach_every_place() -> None:
    plan = TrainPlan(fake_index(1), np.arange(1), ClipSpec(2, 2), global_batch_size=5000, seed=0)
    plan.index.num_frames[:] = 10
    batch = plan.batch(0)
    assert sorted(set(batch.start)) == list(range(8))
    assert sorted(set(batch.top)) == list(range(17))
    assert sorted(set(batch.left)) == list(range(60))
    assert 0.47 < batch.flip.mean() < 0.53
    counts = np.bincount(batch.start)
    assert counts.max() < 1.25 * counts.min(), "starts are uniform"


def test_flips_can_be_switched_off_and_nothing_else_changes() -> None:
    with_flips, without = train_plan(), train_plan(flip=False)
    assert not without.batch(0).flip.any()
    for name in ("sample", "start", "top", "left"):
        assert np.array_equal(getattr(with_flips.batch(0), name), getattr(without.batch(0), name))


@pytest.mark.parametrize("start_multiple", [4, 8, 16])
def test_snapped_starts_are_the_multiples_that_leave_room_and_all_of_them_come(start_multiple: int) -> None:
    snapped, free = train_plan(start_multiple=start_multiple), train_plan()
    clips, plain = stream(snapped, 4000), stream(free, 4000)
    room = {s: max(int(length) - ClipSpec().span + 1, 1) for s, length in enumerate(snapped.index.num_frames)}
    for sample in range(50):
        assert {c[2] for c in clips if c[1] == sample} == set(range(0, room[sample], start_multiple))
    assert [(c[0], c[1], *c[3:]) for c in clips] == [(c[0], c[1], *c[3:]) for c in plain], "only starts change"
    assert snapped.identity != free.identity


@pytest.mark.parametrize("num_views", [1, 3, 10])
@pytest.mark.parametrize("global_batch_size", [1, 7, 64])
def test_an_evaluation_scores_every_view_of_every_sample_once(num_views: int, global_batch_size: int) -> None:
    plan = EvalPlan(
        fake_index(), np.arange(5, 25), ClipSpec(), global_batch_size=global_batch_size, num_views=num_views
    )
    batches = [plan.batch(step) for step in range(plan.num_steps)]
    scored = [
        (s, v)
        for b in batches
        for s, v, w in zip(b.sample.tolist(), b.view.tolist(), b.weight.tolist(), strict=True)
        if w
    ]
    assert scored == [(s, v) for s in range(5, 25) for v in range(num_views)]
    assert all(len(b) == global_batch_size for b in batches)
    assert not any(b.flip.any() for b in batches)
    assert {(t, x) for b in batches for t, x in zip(b.top.tolist(), b.left.tolist(), strict=True)} == {(8, 29)}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: rank_rows(20, rank=0, world_size=3), "20 cannot be shared by 3 ranks"),
        (lambda: rank_rows(24, rank=3, world_size=3), "rank: 3 does not exist"),
        (lambda: train_plan(global_batch_size=0), "global_batch_size: 0 is not possible"),
        (lambda: train_plan(start_multiple=0), "start_multiple: 0 is not possible"),
        (lambda: train_plan_of(ClipSpec(8, 3), frame_step=2), "frame_stride: 3 needs frames that these shards dropped"),
        (lambda: train_plan_of(ClipSpec(crop_size=224)), "crop_size: 224 does not fit a picture of 128 pixels"),
    ],
)
def test_what_cannot_be_planned_is_refused_at_once(make: Callable[[], object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


def train_plan_of(spec: ClipSpec, **index: int) -> TrainPlan:
    return TrainPlan(fake_index(**index), np.arange(50), spec, global_batch_size=8, seed=0)


def test_sizes_are_each_picture_s_own() -> None:
    content = np.array([[0, 0, 128, 228], [50, 0, 128, 128]])
    assert picture_sizes(content, ClipSpec(crop_size=112), stored_size=128).tolist() == [[228, 128], [128, 128]]


@pytest.mark.parametrize(
    ("window", "digest"), [(None, "b96c82be3e6eb136"), (1, "9e9e3fad19eb1811"), (3, "924f035819b6faf4")]
)
def test_a_plan_stays_what_it_was(window: int | None, digest: str) -> None:
    """Fifty steps, as they were in the first version: runs that are underway go on with the same clips."""
    plan, found = train_plan(shuffle_window=window), hashlib.sha256()
    for step in range(50):
        batch = plan.batch(step)
        for name in ("position", "sample", "start", "view", "top", "left", "flip", "weight"):
            found.update(getattr(batch, name).tobytes())
    assert found.hexdigest()[:16] == digest


@pytest.mark.parametrize(("num_tars", "window"), [(1, 1), (7, 3), (300, 1), (300, 7), (70_000, 1), (300, 1000)])
def test_the_order_in_windows_is_a_sort_by_window_and_then_by_draw(num_tars: int, window: int) -> None:
    tar = np.random.default_rng(0).integers(0, num_tars, 20_000)
    random = np.random.default_rng(1)
    present, place = np.unique(tar, return_inverse=True)
    turn = random.permutation(len(present)) // window
    expected = np.lexsort((random.random(len(tar)), turn[place]))
    assert np.array_equal(window_order(tar, window=window, random=np.random.default_rng(1)), expected)


def many_labelled(*counts: int) -> tuple[TrainPlan, ShardIndex]:
    """A plan of samples with so many labels each; sample i has the labels 10 i, 10 i + 1, …"""
    plan = train_plan(num_samples=len(counts))
    values = np.concatenate([10 * i + np.arange(n) for i, n in enumerate(counts)]).astype(np.int32)
    lists = np.concatenate([[0], np.cumsum(counts)]), values
    empty = {field.name: None for field in fields(ShardIndex)}
    first = (10 * np.arange(len(counts))).astype(np.int32)
    return plan, ShardIndex(**empty | {"labels": first, "label_lists": lists})


def test_each_of_a_sample_s_labels_is_drawn_equally_often_and_apart_from_the_flip() -> None:
    plan, index = many_labelled(1, 2, 3)
    seen: dict[tuple, int] = {}
    for step in range(500):
        clips = plan.batch(step)
        labels = drawn_labels(index, clips).tolist()
        for label, flip, sample in zip(labels, clips.flip.tolist(), clips.sample.tolist(), strict=True):
            assert label // 10 == sample
            seen[label, flip] = seen.get((label, flip), 0) + 1
    share = {key: count / 4000 for key, count in seen.items()}
    expected = {0: 1 / 2, 10: 1 / 4, 11: 1 / 4, 20: 1 / 6, 21: 1 / 6, 22: 1 / 6}
    assert {label for label, _ in share} == set(expected)
    assert all(abs(share[label, flip] - expected[label]) < 0.03 for label, flip in share)


def test_a_position_s_label_is_the_same_for_every_batch_size_and_slice() -> None:
    plan, index = many_labelled(3, 1, 2, 4, 2)
    whole = drawn_labels(index, plan.batch(0)).tolist()
    assert [label for r in range(4) for label in drawn_labels(index, plan.batch(0)[6 * r : 6 * r + 6])] == whole
    smaller = TrainPlan(plan.index, np.arange(5), ClipSpec(), global_batch_size=8, seed=3)
    assert [label for step in range(3) for label in drawn_labels(index, smaller.batch(step))] == whole
