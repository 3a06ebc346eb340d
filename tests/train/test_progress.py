"""How fast things get done, and how it is said."""

from res3d_video.train.progress import LINE_EVERY_S, WINDOW_S, Pace, Shown, TrainProgress


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def shown(clock: Clock, *, quiet: bool = False) -> tuple[Shown, list[str]]:
    lines: list[str] = []
    return Shown("reading", unit="files", console=None, say=lines.append, quiet=quiet, clock=clock), lines


def test_the_pace_leaves_out_what_came_before_the_first_mark() -> None:
    pace = Pace()
    assert pace.rate() is None
    pace.mark(7000, now_s=50.0)  # found finished
    assert pace.rate() is None
    assert pace.left_s(7100, now_s=50.0) is None
    pace.mark(7010, now_s=55.0)
    assert pace.rate() == 2.0
    assert pace.left_s(7100, now_s=55.0) == 45.0
    assert pace.left_s(7100, now_s=60.0) == 40.0, "time runs down between marks"
    assert pace.left_s(7100, now_s=200.0) == 0.0


def test_the_pace_is_that_of_the_last_minute() -> None:
    pace = Pace()
    for second in range(300):  # one a second, then three
        pace.mark(second if second < 150 else 150 + 3 * (second - 150), now_s=float(second))
    assert pace.rate() == 3.0
    assert WINDOW_S == 60


def test_marks_as_fast_as_they_come_count_all_the_same() -> None:
    pace = Pace()
    for i in range(1001):
        pace.mark(i, now_s=i / 1000)
    assert pace.rate() == 1000.0


def test_another_round_of_work_begins_a_new_pace() -> None:
    pace = Pace()
    pace.mark(0, now_s=0.0)
    pace.mark(100, now_s=1.0)
    pace.mark(0, now_s=2.0)
    assert pace.rate() is None
    pace.mark(5, now_s=3.0)
    assert pace.rate() == 5.0


def test_a_line_comes_every_ten_seconds_and_at_the_end() -> None:
    clock = Clock()
    progress, lines = shown(clock)
    for done in range(61):
        progress.update(done, 60, "name", failed=0)
        clock.now_s += 0.5
    assert LINE_EVERY_S == 10
    assert lines == [
        "reading: 20/60 files, 2.0 files/s, 0:20 left, 0 failed, name",
        "reading: 40/60 files, 2.0 files/s, 0:10 left, 0 failed, name",
        "reading: 60/60 files in 0:30, 2.0 files/s, 0 failed, name",
    ]


def test_quiet_leaves_lines_out() -> None:
    progress, lines = shown(Clock(), quiet=True)
    progress.update(1, 1)
    assert lines == []


def test_the_trainer_tells_loss_speed_wait_and_replaced_samples_and_warns_even_when_quiet() -> None:
    noted: list[str] = []
    warned: list[str] = []
    progress = TrainProgress(total=2, console=None, note=noted.append, say=warned.append)
    progress.step(2, loss=0.5, clips_per_s=1234.4, data_wait=0.126, data_wait_s=3.0, num_replaced=3)
    assert noted[0].startswith("training: 2/2 steps in 0:00, ")
    assert noted[0].endswith("loss 0.500, 1,234 clips/s, data wait 13%, 3 samples replaced")
    progress.message("step 2 scored")
    progress.warn("not saved")
    assert (noted[1:], warned) == (["step 2 scored"], ["not saved"])
