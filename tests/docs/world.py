"""A small world laid out as the pages say, in which their commands and their Python run within seconds."""

import re
import shutil
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from tests.docs.blocks import asks_for_help, click_command
from tests.raw_sets import small_hmdb51, small_sports1m

# What is added to a command, for a step of two small clips in place of days. Of an option given twice the last counts.
SMALL_STEP = (
    "--steps 1 --batch-size 2 --model res3d10 --width 4 --crop-size 32 --resize 32 "
    "--log-every 1 --eval-every 0 --eval-clips 1"
)
ADDED = {
    "train/main.py": SMALL_STEP,
    "tools/bench_loader.py": "--batches 1 --repeats 1 --batch-size 2 --crop-size 32 --resize 32 --width 4",
    "tools/study.py": "--report",  # tests/tools/test_study.py runs it
}

# What the pages take as there, made once: path within the world -> the command that makes it.
MADE = {
    "shards/ucf101": "tools/make_shards.py ucf101 --workers 1",
    "shards/mine": "tools/make_shards.py folder --raw data/mine --out shards/mine --workers 1",
    "shards/hmdb51": "tools/make_shards.py hmdb51 --workers 1",
    "shards/ucf101-h264": "tools/make_shards.py ucf101 --codec h264 --out shards/ucf101-h264 --workers 1",
    "shards/sports1m": "tools/make_shards.py sports1m --codec h264 --workers 1",
    "runs/ucf101": "train/main.py --data shards/ucf101 --preset tiny --out runs/ucf101",
    "runs/mine": "train/main.py --data shards/mine --preset tiny --out runs/mine",
}
PLACE = re.compile(r"\b(?:shards|runs)/[\w-]+")


class World:
    """The folder in which pages are read; `ucf_raw` is a small UCF101."""

    def __init__(self, home: Path, *, ucf_raw: Path) -> None:
        self.home = home
        (home / "data").mkdir()
        (home / "data/ucf101").symlink_to(ucf_raw)
        (home / "data/mine").symlink_to(ucf_raw / "UCF-101")
        small_hmdb51(home / "data/hmdb51", ucf_raw / "UCF-101")
        small_sports1m(home / "data/sports1m", ucf_raw / "UCF-101")

    def run(self, name: str, words: list[str]) -> Result:
        """A command of ours, made small, in this process; what it takes as there is made before."""
        if not asks_for_help(words):
            if name == "train/main.py":
                shutil.rmtree(self.home / (value_of(words, "--out") or "nowhere"), ignore_errors=True)
            words = words + ADDED.get(name, "").split()
        self.prepare(" ".join(words), made_here=value_of(words, "--out"))
        return CliRunner().invoke(click_command(name), words)

    def prepare(self, text: str, *, made_here: str | None = None) -> None:
        """Make the shards and runs that a text names, but for the one it makes itself."""
        for place in PLACE.findall(text):
            if place in MADE and place != made_here and not (self.home / place).exists():
                name, *words = MADE[place].split()
                result = self.run(name, words)
                assert result.exit_code == 0, f"{MADE[place]}\n{result.output}\n{result.exception!r}"

    def execute(self, source: str, *, where: str) -> dict[str, Any]:
        """A block of Python, as a program of its own would run it; returns its names."""
        self.prepare(source)
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(source, where, "exec"), names)
        return names


def value_of(words: list[str], option: str) -> str | None:
    """What follows an option."""
    return words[words.index(option) + 1] if option in words else None
