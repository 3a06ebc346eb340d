"""How fast things get done, and how it is said."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from res3d_video.train.progress import CONTROLS, ProgressDisplay, plain
from tests.terminal import CHECKOUT, Terminal


class Clock:
    """Stands still until it is told."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def shown(clock: Clock, *, quiet: bool = False) -> tuple[ProgressDisplay, list[str]]:
    lines: list[str] = []
    return ProgressDisplay("reading", unit="files", console=None, say=lines.append, quiet=quiet, clock=clock), lines


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


def test_another_round_begins_a_new_speed_and_quiet_leaves_out_all_but_what_is_always_wanted() -> None:
    clock = Clock()
    progress, lines = shown(clock)
    for done in (0, 50, 100, 0, 5, 10):
        progress.update(done, 200)
        clock.now_s += 10
    assert lines[-1] == "reading: 10/200 files, 30.0 files/min, 0:06:20 left"
    progress, lines = shown(Clock(), quiet=True)
    progress.update(1, 1)
    progress.message("a note")
    progress.message("not saved", always=True)
    assert lines == ["not saved"]


COMMAND = """
import sys
import click
from res3d_video.train.terminal import Command, progress
@click.command(cls=Command)
def main():
    name = "evil\\x1b]0;owned\\x07\\x1b[2J\\u202e\\udcff\\u00e9"
    with progress(name, unit="videos") as tell:
        for done in range(3):
            tell(done, 2, name)
            click.echo(f"warning: {name}", err=True)
    for number in range(1000):
        click.echo(f"line {number} {name}")
    open(sys.argv[1] if len(sys.argv) > 1 else "done", "w").write("to the end")
main(args=[])
"""


@pytest.mark.parametrize("output", ["| true", "> /dev/full 2>&1", "0<&- 1>&- 2>&-"])
def test_work_goes_on_to_its_end_whatever_becomes_of_its_output(tmp_path: Path, output: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n{COMMAND}")
    words = ["bash", "-c", f"{sys.executable} {script} {output}; exit ${{PIPESTATUS[0]}}"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "done").read_text() == "to the end"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("locale", ["ascii", "utf-8"])
def test_a_name_that_the_locale_cannot_write_is_written_out(tmp_path: Path, locale: str) -> None:
    words = [sys.executable, "-c", COMMAND]
    variables = {"PYTHONPATH": str(CHECKOUT), "PYTHONIOENCODING": locale, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, env=variables, timeout=60)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith(b"line 999 evil\\x1b]0;owned\\x07\\u202e\\udcff")  # click itself takes out "\\x1b[2J"
    assert last.endswith({"ascii": b"\\xe9", "utf-8": "é".encode()}[locale])


def test_a_name_cannot_move_the_cursor_of_a_terminal_while_the_bar_does(tmp_path: Path) -> None:
    words = [sys.executable, "-c", COMMAND, str(tmp_path / "done")]
    with Terminal(words, variables={"PYTHONPATH": str(CHECKOUT)}) as terminal:
        assert terminal.finish() == 0
    assert "━" in terminal.raw
    assert terminal.raw.count("owned") > 1000
    for bad in ("\x1b]", "\x07", "\x1b[2J", "\u202e"):
        assert bad not in terminal.raw, repr(bad)


@given(st.text())
def test_plain_text_holds_no_control_character_and_loses_nothing(text: str) -> None:
    assert not {ord(letter) for letter in plain(text)} & set(CONTROLS)
    assert plain(plain(text)) == plain(text)
    kept = "".join(letter for letter in text if ord(letter) not in CONTROLS)
    assert kept == text or len(plain(text)) > len(text)
