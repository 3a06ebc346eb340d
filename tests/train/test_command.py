"""What all commands share: headings, --help-all, Ctrl-C."""

import importlib
import re
import signal
import threading
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from res3d_video.tools import check_shards, study
from res3d_video.train.main import main as train
from res3d_video.train.terminal import Command, Group, no_interrupts
from tests.terminal import CHECKOUT


@click.command(
    cls=Command, go_on="say please", headings={"Fruit": ["pear", "fig"], "None here": ["stone"]}, rare={"Nuts": ["nut"]}
)
@click.option("--nut", help="Rarely.")
@click.option("--fig", help="Sweet.")
@click.option("--pear", help="Green.")
@click.option("--extra", help="Of no heading.")
def eat(**_: str) -> None:
    """Eat."""
    raise KeyboardInterrupt


def headings(text: str) -> dict[str, list[str]]:
    """Heading -> options, of a help text."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"(\w[\w ]*):", line):
            found[match[1]] = []
        elif match := re.match(r"  (--[\w-]+)", line):
            list(found.values())[-1].append(match[1])
    return found


def test_help_is_in_the_order_of_its_headings_and_only_help_all_shows_rare_ones() -> None:
    short, whole = (CliRunner().invoke(eat, [flag]).stdout for flag in ("--help", "--help-all"))
    common = {"Fruit": ["--pear", "--fig"], "Help": ["--extra", "--help-all", "--help"]}
    assert headings(short) == common
    assert headings(whole) == common | {"Nuts": ["--nut"]}
    assert "Every option, also: nuts." in short


def test_ctrl_c_is_one_line_and_exit_code_130() -> None:
    result = CliRunner().invoke(eat, [])
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted; say please\n")


def test_ctrl_c_waits_for_the_end_of_a_block() -> None:
    done = False
    with pytest.raises(KeyboardInterrupt):
        with no_interrupts():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.01)
            done = True
        time.sleep(1)
    assert done


ENTRIES = re.findall(r"^    (res3d-[\w-]+) = ([\w.]+):main$", (CHECKOUT / "setup.cfg").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("name", "module"), ENTRIES)
def test_every_command_ends_at_ctrl_c_and_with_progress_has_quiet(name: str, module: str) -> None:
    main = importlib.import_module(module).main
    commands = list(main.commands.values()) if isinstance(main, Group) else [main]
    for command in commands:
        assert isinstance(command, Command), f"{name}: give it cls=Command of train/terminal.py, or its group cls=Group"
        names = [param.name for param in command.params if isinstance(param, click.Option)]
        placed = [n for places in (command.headings, command.rare) for heading in places.values() for n in heading]
        assert len(placed) == len(set(placed)), "an option has two headings"
        assert set(names) - {"help_all"} <= set(placed) or not placed, set(names) - set(placed)
    if "progress(" in Path(str(importlib.import_module(module).__file__)).read_text():
        assert any("quiet" in [param.name for param in command.params] for command in commands), name


@pytest.mark.parametrize(
    ("command", "words", "line"),
    [
        (train, ["--data", "none"], "--data: none is no folder; make shards with python tools/make_shards.py"),
        (check_shards.main, ["none"], "none is no folder; make shards with python tools/make_shards.py"),
        (study.main, ["--data", "s3://x"], "--data: s3://x: reads folders only; tools/sync_shards.py brings shards"),
        (train, ["--qqq"], "no such option '--qqq'; main --help lists what there is"),
        (train, [], "missing option '--data'; main --help lists what there is"),
    ],
)
def test_wrong_usage_is_one_line_with_the_way_out(command: click.Command, words: list[str], line: str) -> None:
    done = CliRunner().invoke(command, words)
    assert (done.exit_code, done.output) == (2, f"error: {line}\n")
