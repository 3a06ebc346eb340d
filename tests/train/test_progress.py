"""How fast things get done, and how it is said."""

from res3d_video.train.progress import Shown


class Clock:
    """Stands still until it is told."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def shown(clock: Clock, *, quiet: bool = False) -> tuple[Shown, list[str]]:
    lines: list[str] = []
    return Shown("reading", unit="files", console=None, say=lines.append, quiet=quiet, clock=clock), lines


def test_a_line_comes_every_ten_seconds_and_at_the_end_and_speed_is_that_of_the_last_minute() -> None:
    clock = Clock()
    progress, lines = shown(clock)
    for second in range(101):
        progress.update(max(second, 3 * second - 80), 220, "name", failed=0)  # one a second, from 40 on three
        clock.now_s += 1
    assert [lines[0], lines[3], lines[-1]] == [
        "reading: 10/220 files, 1.0 files/s, 0:03:30 left, 0 failed, name",
        "reading: 40/220 files, 1.0 files/s, 0:03:00 left, 0 failed, name",
        "reading: 220/220 files in 0:01:40, 3.0 files/s, 0 failed, name",
    ]
    assert len(lines) == 10


def test_another_round_of_work_begins_a_new_speed() -> None:
    clock = Clock()
    progress, lines = shown(clock)
    for done in (0, 50, 100, 0, 5, 10):
        progress.update(done, 200)
        clock.now_s += 10
    assert lines[-1] == "reading: 10/200 files, 30.0 files/min, 0:06:20 left"


def test_quiet_leaves_lines_out_but_those_that_are_always_wanted() -> None:
    progress, lines = shown(Clock(), quiet=True)
    progress.update(1, 1)
    progress.message("a note")
    progress.message("not saved", always=True)
    assert lines == ["not saved"]
