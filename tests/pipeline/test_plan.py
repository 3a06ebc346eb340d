"""Which clips, in which order, on which rank."""

import hashlib
import itertools
import math
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
from res3d_video.train.config import default_groups
from tests.scale_sim import NODES, made_index, simulate


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


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
        (lambda: train_plan(global_batch_size=0), "global_batch_size must be >= 1, got 0"),
        (lambda: train_plan(start_multiple=0), "start_multiple must be >= 1, got 0"),
        (lambda: train_plan(canonical_groups=-1), "canonical_groups must be >= 0, which is none, got -1"),
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
    ("window", "groups", "digest"),
    [
        (None, 0, "b96c82be3e6eb136"),
        (1, 0, "9e9e3fad19eb1811"),
        (3, 0, "924f035819b6faf4"),
        (None, 6, "ce074d95cf56b613"),
        (3, 6, "cfbd7fa032c6649f"),
    ],
)
def test_a_plan_stays_what_it_was(window: int | None, groups: int, digest: str) -> None:
    """Fifty steps, as they were in the first version: runs that are underway go on with the same clips."""
    plan, found = train_plan(shuffle_window=window, canonical_groups=groups), hashlib.sha256()
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


def group_of(position: np.ndarray, groups: int, batch: int) -> np.ndarray:
    """The rule of docs/decisions/0002-the-plan.md, in words of its own."""
    hands = math.gcd(groups, batch)
    return position % hands * (groups // hands) + position // hands % (groups // hands)


@pytest.mark.parametrize("num_samples", [1, 2, 5, 12, 13])
def test_with_groups_every_sample_comes_once_an_epoch_and_every_rank_keeps_to_its_groups(num_samples: int) -> None:
    for groups, batch, window in itertools.product(range(1, 15), (1, 2, 4, 6, 12), (None, 1, 2)):
        plan = train_plan(
            num_samples=num_samples, global_batch_size=batch, canonical_groups=groups, shuffle_window=window
        )
        steps = -(-4 * num_samples // batch)
        rows = [plan.batch(step) for step in range(steps)]
        position, sample = (np.concatenate([getattr(b, n) for b in rows]) for n in ("position", "sample"))
        assert sorted(position) == list(range(steps * batch))
        group = group_of(position, groups, batch)
        for epoch in range(4):
            own = position // num_samples == epoch
            assert sorted(sample[own]) == list(range(num_samples))
            sizes = np.bincount(group[own], minlength=groups)
            assert sizes.max() - sizes.min() <= 1
        for ranks in divisors(math.gcd(groups, batch)):
            for rank in range(ranks):
                mine = rank_rows(batch, rank=rank, world_size=ranks, canonical_groups=groups)
                drawn = group.reshape(-1, batch)[:, mine]
                assert set(drawn.ravel() * ranks // groups) == {rank}
        if batch % groups == 0:
            assert (np.sort(group.reshape(-1, batch)) == np.repeat(np.arange(groups), batch // groups)).all()


@pytest.mark.parametrize("window", [None, 1, 3])
def test_groups_share_tars_only_where_the_line_of_samples_is_cut(window: int | None) -> None:
    plan = TrainPlan(
        fake_index(1000, num_tars=60), np.arange(1000), ClipSpec(), global_batch_size=32, seed=5,
        canonical_groups=8, shuffle_window=window,
    )  # fmt: skip
    tars: dict[int, set[int]] = {}
    for epoch in range(5):
        position = np.arange(1000 * epoch, 1000 * (epoch + 1))
        tar = plan.index.tar_of(plan.samples_at(position))
        group = group_of(position, 8, 32)
        for g in range(8):
            own = tar[group == g]
            tars.setdefault(g, set()).update(own.tolist())
            assert len(set(own.tolist())) <= 60 / 8 + 4, "an eighth, and those that are cut"
            if window is not None:
                began = {t: int(np.flatnonzero(own == t)[0]) for t in set(own.tolist())}
                ended = {t: int(np.flatnonzero(own == t)[-1]) for t in began}
                opened = [sum(began[t] <= i <= ended[t] for t in began) for i in range(len(own))]
                assert max(opened) <= window + 1
    shared = sum(map(len, tars.values())) - 60
    assert shared <= 7, "one between two neighbors at most, in all epochs together"


def test_with_groups_a_bad_sample_s_place_is_taken_by_the_next_one_of_its_group() -> None:
    for groups, batch in ((8, 32), (6, 4)):
        plan = train_plan(num_samples=200, global_batch_size=batch, canonical_groups=groups, shuffle_window=2)
        clips = plan.batch(3)
        for n, attempt in itertools.product(range(batch), range(1, 4)):
            other = plan.replacement(clips[n : n + 1], attempt)
            place = clips.position[n] + attempt * groups
            assert group_of(place, groups, batch) == group_of(clips.position[n], groups, batch)
            assert other.sample == plan.samples_at(np.array([place]))
            assert other.position == clips.position[n]


def test_what_a_position_draws_does_not_depend_on_groups() -> None:
    plain, grouped = train_plan(num_samples=1), train_plan(num_samples=1, canonical_groups=8)
    for step in range(5):
        a, b = plain.batch(step), grouped.batch(step)
        b = b[np.argsort(b.position)]
        assert all(np.array_equal(value, getattr(b, name)) for name, value in vars(a).items())


def test_groups_are_the_same_for_every_seed_and_belong_to_what_a_state_must_fit() -> None:
    one, other = (train_plan(num_samples=960, global_batch_size=32, seed=s, canonical_groups=8) for s in (1, 2))
    position = np.arange(0, 960, 8)
    assert set(one.samples_at(position)) == set(other.samples_at(position))
    assert list(one.samples_at(position)) != list(other.samples_at(position))
    names = {train_plan(canonical_groups=g, global_batch_size=b).identity for g in (0, 8, 12) for b in (16, 20)}
    assert len(names) == 4, "8 groups have another order in batches of 16 and of 20; nothing else depends on the batch"
    assert "groups" not in train_plan().identity


@pytest.mark.parametrize(
    ("groups", "ranks", "nearest"), [(64, 3, 63), (64, 5, 65), (64, 6, 66), (2, 8, 8), (10, 4, 12)]
)
def test_groups_that_ranks_cannot_share_are_refused_with_the_nearest_number_that_they_can(
    groups: int, ranks: int, nearest: int
) -> None:
    said = f"^canonical_groups: {groups} cannot be shared by {ranks} ranks; choose {nearest}, or a number of"
    with pytest.raises(UserError, match=said):
        rank_rows(ranks, rank=0, world_size=ranks, canonical_groups=groups)
    assert rank_rows(ranks, rank=0, world_size=ranks, canonical_groups=nearest) == slice(0, 1)


def test_the_default_groups_fit_every_number_of_ranks_that_fits_the_batch() -> None:
    for batch in range(1, 700):
        groups = default_groups(batch, num_samples=10**6)
        assert groups >= 64
        assert [default_groups(batch, num_samples=64 * groups - missing) for missing in (0, 1)] == [groups, 0]
        for ranks in divisors(batch):
            rank_rows(batch, rank=0, world_size=ranks, canonical_groups=groups)


def test_of_many_tars_a_node_needs_its_share_and_a_small_cache_needs_little_more() -> None:
    index = made_index(1000)
    without, grouped = (simulate(index, groups=g, window=w) for g, w in ((0, 64), (64, 4)))
    assert without["fetched"] == 1.0, "every node reads every tar"
    assert grouped["fetched"] * NODES == pytest.approx(1, abs=0.02)
    small, larger = grouped["fetched_in"]
    assert grouped["fetched"] <= larger <= small <= grouped["fetched"] * 1.1
    assert grouped["open"] < 8 * 5 + 8 * 2, "a window of each of eight groups, and tars that are cut"
    assert grouped["step_ms"] < 2


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
