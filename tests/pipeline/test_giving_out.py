"""Work of several workers: all of it done, none of it for ever, whatever happens to them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.build.giving_out import FEW, GivingOut, Patience


def test_work_is_given_in_order_and_is_over_when_all_is_finished() -> None:
    work = GivingOut(["a", "b"], max_attempts=3)
    assert [work.give(now_s=0), work.give(now_s=0), work.give(now_s=0)] == ["a", "b", None]
    assert work.finish("b", now_s=1)
    assert not work.is_over
    assert work.finish("a", now_s=2)
    assert (work.is_over, work.failed) == (True, {})


def test_no_work_is_over_at_once() -> None:
    assert GivingOut([], max_attempts=3).is_over


def test_what_failed_is_given_again_after_the_rest_and_reported_after_the_third_time() -> None:
    work = GivingOut(["a", "b"], max_attempts=3)
    order = []
    while (name := work.give(now_s=0)) is not None:
        order.append(name)
        if name == "a":
            work.fail("a", f"reason {len(order)}")
        else:
            work.finish("b", now_s=1)
    assert order == ["a", "b", "a", "a"]
    assert (work.is_over, work.failed) == (True, {"a": "reason 4"})


def after_few(*, patience: Patience) -> GivingOut:
    """Three are finished after 10, 20 and 30 s; "slow" and "late" are given out at 100 and 101 s."""
    work = GivingOut(["x", "y", "z", "slow", "late"], max_attempts=3, patience=patience)
    for name, took_s in (("x", 10), ("y", 20), ("z", 30)):
        assert work.give(now_s=0) == name
        work.finish(name, now_s=took_s)
    assert (work.give(now_s=100), work.give(now_s=101)) == ("slow", "late")
    return work


@pytest.mark.parametrize(
    ("patience", "limit_s"), [(Patience(3, 0), 60), (Patience(3, 1000), 1000), (Patience(1, 0), 20)]
)
def test_what_takes_much_longer_than_the_median_is_given_to_one_other_worker(patience: Patience, limit_s: int) -> None:
    work = after_few(patience=patience)
    assert work.give(now_s=100 + limit_s) is None
    assert work.give(now_s=100 + limit_s + 0.5) == "slow"
    assert work.give(now_s=10_000) == "late"
    assert work.give(now_s=1e9) is None  # two workers each are enough
    assert work.finish("slow", now_s=10_001)
    assert not work.finish("slow", now_s=10_002)
    assert not work.is_over
    work.fail("late", "died")
    assert not work.is_over  # the other worker still has it
    work.finish("late", now_s=10_003)
    assert (work.is_over, work.failed) == (True, {})


def test_nothing_is_slow_before_a_few_are_finished() -> None:
    names = [str(i) for i in range(FEW)]
    work = GivingOut(names, max_attempts=3, patience=Patience(1, 0))
    for _ in names:
        work.give(now_s=0)
    for name in names[:-1]:
        work.finish(name, now_s=1)
    assert work.give(now_s=1e9) is None


def test_a_failed_copy_of_what_is_finished_changes_nothing() -> None:
    work = after_few(patience=Patience(1, 0))
    assert work.give(now_s=1000) == "slow"
    work.finish("slow", now_s=1001)
    for _ in range(1):
        work.fail("slow", "cancelled")
    work.finish("late", now_s=1002)
    assert (work.is_over, work.failed, work.give(now_s=1e9)) == (True, {}, None)


@given(st.integers(0, 6), st.integers(1, 4), st.data())
def test_whatever_workers_do_each_piece_is_finished_once_or_has_failed_so_often(
    num_names: int, max_attempts: int, data: st.DataObject
) -> None:
    names = [f"n{i}" for i in range(num_names)]
    work = GivingOut(names, max_attempts=max_attempts, patience=Patience(1, 0))
    held: list[str] = []
    finished: list[str] = []
    fails = dict.fromkeys(names, 0)
    now_s = 0.0
    while not work.is_over:
        now_s += data.draw(st.floats(0, 10))
        if not held or data.draw(st.booleans()):
            name = work.give(now_s=now_s)
            if name is not None:
                assert name not in finished
                held.append(name)
                assert held.count(name) <= 2
                continue
        assert held, "work is left, and nobody has it"
        name = held.pop(data.draw(st.integers(0, len(held) - 1)))
        if data.draw(st.booleans()):
            if work.finish(name, now_s=now_s):
                finished.append(name)
        else:
            fails[name] += 1
            work.fail(name, "died")
    assert sorted([*finished, *work.failed]) == sorted(names)
    assert all(fails[name] >= max_attempts for name in work.failed)
    assert all(count <= max_attempts + 1 for count in fails.values())
