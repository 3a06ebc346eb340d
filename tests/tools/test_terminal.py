"""Progress as people see it: a bar on a terminal, the same facts as plain lines elsewhere."""

import subprocess
import sys

import pytest

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
FINAL = "3/3 videos in 0:00:00"


def words(*options: str) -> list[str]:
    return [sys.executable, "-c", WORK, *options]


def test_a_terminal_gets_a_bar_with_count_rate_time_left_failures_and_note() -> None:
    with Terminal(words()) as terminal:
        assert terminal.finish() == 0
    assert "━" in terminal.text
    lines = [line for line in terminal.text.splitlines() if "2/3 videos, " in line]
    assert any(line.rstrip().endswith("videos/s, 0:00:01 left, 1 failed, a note") for line in lines), terminal.text
    assert FINAL in terminal.text
    assert terminal.text.rstrip().endswith("the result")


def test_a_bar_has_colours_and_with_no_color_has_none() -> None:
    colour = "\x1b[38;5;"
    with Terminal(words()) as coloured, Terminal(words(), variables={"NO_COLOR": "1"}) as plain:
        assert (coloured.finish(), plain.finish()) == (0, 0)
    assert colour in coloured.raw
    assert colour not in plain.raw
    assert "━" in plain.text


def test_a_dumb_terminal_gets_plain_lines() -> None:
    with Terminal(words(), variables={"TERM": "dumb"}) as terminal:
        assert terminal.finish() == 0
    lines = terminal.raw.replace("\r", "").splitlines()
    assert lines[0].startswith(f"making: {FINAL}")
    assert lines[1:] == ["the result"]
    assert not ESCAPES.search(terminal.raw)


def test_elsewhere_there_is_a_line_at_the_end_and_nothing_with_quiet() -> None:
    told, quiet = (
        subprocess.run(words(*options), cwd=CHECKOUT, capture_output=True, text=True, check=True)
        for options in ([], ["quiet"])
    )
    (line,) = told.stderr.splitlines()
    assert line.startswith(f"making: {FINAL}, ")
    assert line.endswith(" videos/s, 1 failed, a note")
    assert (quiet.stdout, quiet.stderr) == ("the result\n", "")


@pytest.mark.parametrize("variables", [{}, {"TERM": "dumb"}])
def test_quiet_shows_no_progress_on_a_terminal_either(variables: dict[str, str]) -> None:
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
