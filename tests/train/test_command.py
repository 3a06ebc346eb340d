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

from res3d_video.tools import bench_loader, check_shards, evaluate, study
from res3d_video.train.data_options import missing
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


def test_help_is_in_the_order_of_its_headings_and_leaves_rare_ones_out() -> None:
    text = CliRunner().invoke(eat, ["--help"]).stdout
    assert headings(text) == {"Fruit": ["--pear", "--fig"], "Help": ["--extra", "--help-all", "--help"]}
    assert "Every option, also: nuts." in text


def test_help_all_shows_every_option() -> None:
    result = CliRunner().invoke(eat, ["--help-all"])
    assert result.exit_code == 0
    assert headings(result.stdout) == {
        "Fruit": ["--pear", "--fig"], "Nuts": ["--nut"], "Help": ["--extra", "--help-all", "--help"]
    }  # fmt: skip


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
    "module", ["res3d_video.train.main", "res3d_video.tools.make_shards", "res3d_video.tools.bench_loader"]
)
def test_the_options_of_everyday_fit_on_a_screen(module: str) -> None:
    main = importlib.import_module(module).main
    words = ["ucf101", "--help"] if isinstance(main, Group) else ["--help"]
    runner = CliRunner(env={"COLUMNS": "120"})
    short, whole = (runner.invoke(main, [*words[:-1], flag]).stdout for flag in ("--help", "--help-all"))
    assert len(short.splitlines()) <= 60
    options = set(re.findall(r"--[a-z][\w-]+", short.partition("Examples:")[0]))
    assert options < set(re.findall(r"--[a-z][\w-]+", whole))


def test_a_folder_that_is_not_there_names_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hint = "shards/ucf101 is not there: make it with python tools/make_shards.py ucf101\n"
    lines = {
        train: ["--data", "shards/ucf101", "--preset", "tiny", "--out", "x"],
        evaluate.main: ["--checkpoint", "x.pt", "--data", "shards/ucf101"],
        bench_loader.main: ["--data", "shards/ucf101"],
        check_shards.main: ["shards/ucf101"],
        study.main: ["--data", "shards/ucf101"],
    }
    for command, words in lines.items():
        result = CliRunner().invoke(command, words)
        prefix = "" if command is check_shards.main else "--data: "
        assert (result.exit_code, result.stderr) == (2, f"error: {prefix}{hint}")


def test_commands_that_read_folders_only_say_how_to_bring_shards() -> None:
    result = CliRunner().invoke(study.main, ["--data", "s3://bucket/shards/ucf101"])
    assert (result.exit_code, result.stderr) == (
        2,
        "error: --data: s3://bucket/shards/ucf101: shards are read here from a folder; python tools/sync_shards.py "
        "s3://bucket/shards/ucf101 shards/ucf101 brings them\n",
    )


def test_the_hint_for_a_folder_of_ones_own_has_its_name() -> None:
    assert missing(Path("a/b")).endswith("make_shards.py folder --raw VIDEOS --out a/b")
    assert missing(Path("shards/folder")).endswith("make_shards.py folder --raw VIDEOS --out shards/folder")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--dta", "x"], r"error: no such option '--dta' \(did you mean [^?]*'--data'[^?]*\?\); main --help lists .*"),
        ([], "error: missing option '--data'; main --help lists what there is"),
    ],
)
def test_what_click_refuses_is_one_line_like_our_own_errors(words: list[str], line: str) -> None:
    done = CliRunner().invoke(train, words)
    assert done.exit_code == 2
    assert re.fullmatch(line, done.output.strip())
