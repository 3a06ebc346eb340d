"""Every command does its work to the end when its output is full, closed, or read by somebody who has gone."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.world import SMALL_STEP, World
from tests.foreign_weights import CaffeForward, written
from tests.terminal import CHECKOUT
from tests.warm import Warm

CHEAP = {
    "check_shards": ("tools.check_shards", "shards/ucf101", None),
    "make_shards": (
        "tools.make_shards",
        "ucf101 --out made/shards --workers 1",
        "made/shards/dataset.json",
    ),
    "models": ("train.models.__main__", "--model res2d18", None),
    "study": ("tools.study", "--data shards/ucf101 --report --out made/study", "made/study/study.md"),
    "sync_shards": ("tools.sync_shards", "shards/ucf101 made/copy", "made/copy/dataset.json"),
    "thumos14": ("tools.thumos14", "--help", None),  # needs annotations
}
RUN = "--checkpoint runs/ucf101/latest.pt --data shards/ucf101 --clips 1"
BENCH = "--batches 1 --repeats 1 --batch-size 2 --crop-size 32 --resize 32 --width 4"
OTHERS = {
    "aslan": ("tools.aslan", "--help", None),  # its files are MATLAB's
    "bench_loader": ("tools.bench_loader", f"--data shards/ucf101 {BENCH} --json made/b.json", "made/b.json"),
    "check_gpu": (
        "tools.check_gpu",
        "--data shards/ucf101 --device cpu --minutes 0.1 --stages A --json made/g.json",
        "made/g.json",
    ),
    "draw_figures": ("tools.draw_figures", "curves runs/ucf101 --out made/c.png", "made/c.png"),
    "evaluate": ("tools.evaluate", f"{RUN} --json made/e.json", "made/e.json"),
    "extract_features": (
        "tools.extract_features",
        f"{RUN} --layers pool5 --out made/f.parquet",
        "made/f.parquet/000000.parquet",
    ),
    "import_weights": (
        "tools.import_weights",
        "--from caffe blobs.npz --model res3d18 --classes classes.txt --out made/i.pt",
        "made/i.pt",
    ),
    "linear_svm": (
        "tools.linear_svm", "--features made/f.parquet --layer pool5 --splits 1 --c 1 --json made/s.json", "made/s.json"
    ),
    "make_demo_videos": (
        "tools.make_demo_videos",
        "--out made/demo --videos-per-class 1 --frames 2 --workers 1",
        "made/demo/left/scene000_left.mp4",
    ),
    "export": ("tools.export", "--checkpoint runs/ucf101/latest.pt --format torch --out made/m.pt2", "made/m.pt2"),
    "predict": (
        "tools.predict", "--checkpoint runs/ucf101/latest.pt data/ucf101 --clips 1 --json made/pr.json", "made/pr.json"
    ),
    "play": ("tools.play", "shards/ucf101 --random --out made/p.gif --json made/p.json", "made/p.json"),
    "report": ("tools.report", "data shards/ucf101 --out made/d.html", "made/d.html"),
    "train": ("train.main", f"--data shards/ucf101 --preset tiny --out made/run {SMALL_STEP}", "made/run/latest.pt"),
}  # fmt: skip
IN_ONE_PROCESS = """
import importlib, json, os, pathlib, subprocess, sys, traceback
if __name__ == "__main__":  # make_demo_videos starts processes that import this
    os.chdir(pathlib.Path(__file__).parent)
    for stream, place in ((1, sys.argv[1]), (2, sys.argv[2])):
        if place == "closed":
            os.close(stream)
        elif place == "head":
            head = subprocess.Popen(["head", "-1"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            os.dup2(head.stdin.fileno(), stream)
            head.stdin.close()
        elif place:
            os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT), stream)
    closed = sys.argv[1] == "closed"  # as Python has it from its start
    for stream, name in ((1, "stdout"), (2, "stderr")):
        setattr(sys, name, None if closed else open(stream, "w", closefd=False))
        setattr(sys, f"__{name}__", getattr(sys, name))
    codes = {}
    for name, (module, words, _) in json.loads(pathlib.Path("commands.json").read_text()).items():
        try:
            importlib.import_module("res3d_video." + module).main.main(words.split(), prog_name=name)
        except SystemExit as end:
            codes[name] = end.code
        except BaseException:
            codes[name] = traceback.format_exc()
    pathlib.Path("codes.json").write_text(json.dumps(codes))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, ucf_raw: Path) -> Path:
    """A folder with raw videos, shards, a run, and what the other commands read."""
    home = tmp_path_factory.mktemp("home")
    world = World(home, ucf_raw=ucf_raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        world.prepare("shards/ucf101 runs/ucf101")
    written(home, CaffeForward()).rename(home / "blobs.npz")
    (home / "classes.txt").write_text("a\nb\nc\n")
    return home


def codes_of(commands: dict, home: Path, *, stdout: str = "", stderr: str = "") -> dict:
    """Exit code of each command, or its traceback, run in one process.

    Args:
        stdout: A file that it goes to; "closed", or "head" for a reader of one line.
        stderr: The same.
    """
    subprocess.run(["rm", "-rf", "made", "codes.json", "errors.txt"], cwd=home, check=True)
    (home / "commands.json").write_text(json.dumps(commands))
    (home / "run.py").write_text(f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n{IN_ONE_PROCESS}")
    Warm([sys.executable, str(home / "run.py"), stdout, stderr]).wait(240)
    return json.loads((home / "codes.json").read_text())


@pytest.mark.slow
def test_every_command_ends_well_on_a_full_disk_under_its_output(home: Path) -> None:
    names = set(re.findall(r"^    res3d-([\w-]+) =", (CHECKOUT / "setup.cfg").read_text(), re.MULTILINE))
    commands = CHEAP | OTHERS
    assert set(commands) == {name.replace("-", "_") for name in names}
    assert codes_of(commands, home, stdout="/dev/full", stderr="/dev/full") == dict.fromkeys(commands, 0)
    assert [path for _, _, path in commands.values() if path is not None and not (home / path).is_file()] == []


@pytest.mark.slow
@pytest.mark.parametrize(("stdout", "stderr"), [("closed", "closed"), ("head", "")])
def test_commands_end_well_when_nobody_takes_their_output(home: Path, stdout: str, stderr: str) -> None:
    assert codes_of(CHEAP, home, stdout=stdout, stderr=stderr) == dict.fromkeys(CHEAP, 0)


@pytest.mark.slow
def test_a_result_of_json_that_is_lost_is_no_success(home: Path) -> None:
    commands = {"check_shards": ("tools.check_shards", "shards/ucf101 --json", None)}
    assert codes_of(commands, home, stdout="/dev/full", stderr="errors.txt") == {"check_shards": 1}
    line = "error: standard output: the result could not be written ([Errno 28] No space left on device)"
    assert f"{line}; the work itself is done\n" in (home / "errors.txt").read_text()


@pytest.mark.slow
def test_a_file_that_cannot_be_written_is_told_before_the_work(home: Path) -> None:
    (home / "file").write_text("")
    blocked = {
        name: (module, re.sub(r"--json \S+", "--json file/below.json", words), None)
        for name, (module, words, _) in OTHERS.items()
        if "--json" in words
    }
    assert codes_of(blocked, home, stderr="errors.txt") == dict.fromkeys(blocked, 2)
    line = "error: --json: file/below.json cannot be written (Not a directory); choose another file\n"
    assert (home / "errors.txt").read_text() == line * len(blocked)
    assert not (home / "made").exists()
