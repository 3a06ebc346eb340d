"""Progress as people see it: a bar on a terminal, the same facts as plain lines elsewhere."""

import subprocess
import sys

from tests.terminal import CHECKOUT, ESCAPES, Terminal

WORK = """
import sys, time
from res3d_video.train.terminal import progress
with progress("making", unit="videos", quiet="quiet" in sys.argv) as tell:
    for done in range(4):
        tell(done, 3, "a note", failed=1)
        time.sleep(0.15)
print("the result")
"""
FINAL, COLOUR = "3/3 videos in 0:00:00", "\x1b[38;5;"


def words(*options: str) -> list[str]:
    return [sys.executable, "-c", WORK, *options]


def test_a_terminal_gets_a_bar_with_count_rate_time_left_failures_and_note() -> None:
    with Terminal(words()) as terminal:
        assert terminal.finish() == 0
    assert ("━" in terminal.text, COLOUR in terminal.raw) == (True, True)
    lines = [line for line in terminal.text.splitlines() if "2/3 videos, " in line]
    assert any(line.rstrip().endswith("videos/s, 0:00:01 left, 1 failed, a note") for line in lines), terminal.text
    assert FINAL in terminal.text
    assert terminal.text.rstrip().endswith("the result")


def test_with_no_color_a_bar_has_none_and_a_dumb_terminal_gets_plain_lines() -> None:
    with Terminal(words(), variables={"NO_COLOR": "1"}) as plain, Terminal(words(), variables={"TERM": "dumb"}) as dumb:
        assert (plain.finish(), dumb.finish()) == (0, 0)
    assert (COLOUR in plain.raw, "━" in plain.text) == (False, True)
    first, *lines = dumb.raw.replace("\r", "").splitlines()
    assert (first.startswith(f"making: {FINAL}"), lines) == (True, ["the result"])
    assert not ESCAPES.search(dumb.raw)


def test_elsewhere_there_is_a_line_at_the_end_and_nothing_with_quiet() -> None:
    common = {"cwd": CHECKOUT, "capture_output": True, "text": True, "check": True}
    told, quiet = (subprocess.run(words(*options), **common) for options in ([], ["quiet"]))
    (line,) = told.stderr.splitlines()
    assert line.startswith(f"making: {FINAL}, ")
    assert line.endswith(" videos/s, 1 failed, a note")
    assert (quiet.stdout, quiet.stderr) == ("the result\n", "")


def test_quiet_shows_no_progress_on_a_terminal_either() -> None:
    for variables in ({}, {"TERM": "dumb"}):
        with Terminal(words("quiet"), variables=variables) as terminal:
            assert terminal.finish() == 0
        assert terminal.raw.split() == ["the", "result"]


def test_a_narrow_terminal_keeps_a_line_and_its_beginning() -> None:
    with Terminal(words(), columns=40) as terminal:
        assert terminal.finish() == 0
    lines = [line.rstrip() for line in terminal.text.splitlines() if "/3 videos" in line]
    assert lines
    assert max(map(len, lines)) <= 40
    assert FINAL in lines[-1]
    assert lines[-1].endswith("…")
