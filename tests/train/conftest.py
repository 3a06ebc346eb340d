"""A set of moving squares that trains in seconds, and the trainer as a function."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import list_folder
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.tools.numbered import write_video
from res3d_video.train.checkpoint import load_checkpoint
from res3d_video.train.main import main

CHECKOUT = Path(__file__).resolve().parents[2]
CLIPS = "--num-frames 4 --crop-size 32 --resize 32 --batch-size 4"
SMALL = f"--preset tiny --model res3d10 {CLIPS} --eval-every 0 --eval-clips 3 --num-threads 1 --device cpu".split()
NARROW = ["--width", "4", "--batch-size", "2", "--eval-clips", "1"]


def moving_square(*, step: int, top: int, num_frames: int = 20) -> np.ndarray:
    """A bright square that moves `step` pixels a frame to the right and around: uint8 [F, 48, 64, 3]."""
    frames = np.full((num_frames, 48, 64, 3), 40, np.uint8)
    for i in range(num_frames):
        columns = (np.arange(12) + step * i) % 64
        frames[i, top : top + 12, columns] = 220
    return frames


def build_squares(root: Path, *, classes: dict[str, int], num_groups: int = 6, codec: str = "filmstrip") -> ShardIndex:
    """Shards of a video a class and group; the last third of the groups is the test side."""
    for name, step in classes.items():
        (root / "raw" / name).mkdir(parents=True)
        for group in range(num_groups):
            frames = moving_square(step=step, top=5 * group)
            write_video(root / "raw" / name / f"g{group}_{name}.mp4", frames, vcodec="libx264", pix_fmt="yuv420p")
    return shards_of(root, "squares", test_groups=range(num_groups - max(num_groups // 3, 1), num_groups), codec=codec)


def shards_of(root: Path, name: str, *, test_groups: Iterable[int], **settings: Any) -> ShardIndex:
    """Shards in root/shards of the videos raw/<class>/g<group>…, in pictures of 32 pixels."""
    tested = tuple(f"g{group}" for group in test_groups)
    listing = list_folder(root / "raw", name=name, group_pattern=r"^(g\d)", test_groups=tested)
    build_shards(listing, root / "shards", BuildSettings(size=32, **settings), workers=1)
    return open_index(root / "shards")


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """Two classes: squares that move left and squares that move right."""
    return build_squares(tmp_path_factory.mktemp("squares"), classes={"left": -3, "right": 3})


@pytest.fixture(scope="session")
def squares_h264(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """The same in H.264."""
    return build_squares(tmp_path_factory.mktemp("h264"), classes={"left": -3, "right": 3}, codec="h264")


@pytest.fixture(scope="session")
def other_squares(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """Another dataset, of three classes."""
    root = tmp_path_factory.mktemp("other")
    return build_squares(root, classes={"left": -2, "right": 2, "still": 0}, num_groups=2)


Trainer = Callable[..., Result]


@pytest.fixture
def run_main(squares: ShardIndex) -> Trainer:
    """Runs the trainer's command in this process on the squares; later options win. None for any exit code."""

    def run(out: Path, *options: str, data: Path | str | None = None, exit_code: int | None = 0) -> Result:
        command = ["--data", str(data or squares.data_dir), "--out", str(out), *SMALL, *options]
        result = CliRunner().invoke(main, command, catch_exceptions=False)
        assert exit_code in (None, result.exit_code), result.output
        return result

    return run


def command_line(squares: ShardIndex, out: Path, *options: str, processes: int = 1) -> list[str]:
    """The same as a program of its own, under torchrun for more than one process."""
    python = [sys.executable]
    if processes > 1:
        python += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*python, "train/main.py", "--data", str(squares.data_dir), "--out", str(out), *SMALL, *options]


def run_program(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=300, check=False)


def write(path: Path, content: Any) -> None:
    """Bytes, what `torch.save` makes of anything else, or no file."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)


@contextmanager
def room_for(num_bytes: int) -> Iterator[None]:
    """No file of this process can be longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def read_metrics(out: Path, event: str) -> list[dict]:
    """The lines of metrics.jsonl of one kind."""
    lines = (json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == event]


def values_in(out: Path, name: str, *, event: str = "train") -> list:
    """What these lines have under a name."""
    return [line[name] for line in read_metrics(out, event)]


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)["model"]
