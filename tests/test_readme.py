"""Every command and every piece of Python in the README runs as it stands, in a folder laid out as the README says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
README = (CHECKOUT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
IN_TEXT = [c for c in re.findall(r"`((?:python|torchrun|make|source) [^`]+)`", README) if c not in COMMANDS]

# What a test adds to a command, for a few steps of a small batch in place of days.
SHORT = " --steps 2 --batch-size 4 --eval-every 0 --eval-clips 1 --log-every 1"
ADDED = {
    "torchrun train/main.py": SHORT,
    "python train/main.py": SHORT,
    "python tools/bench_loader.py": " --batches 1 --repeats 1 --batch-size 2",
    "python tools/study.py": " --list",  # tests/tools/test_study.py runs it
    "make test": " TESTS=tests/pipeline/test_clip.py",
}
ADDED["make demo"] = " DEMO_VIDEOS=4 DEMO_STEPS=2"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, ucf_raw: Path, numbered_raw: Path) -> Path:
    """A checkout with data/ucf101, data/hmdb51 and data/mine filled."""
    home = tmp_path_factory.mktemp("home") / "checkout"
    skipped = shutil.ignore_patterns(".*", "data", "runs", "demo", "shards", "__pycache__", "*.egg-info")
    shutil.copytree(CHECKOUT, home, ignore=skipped)
    (home / "data").mkdir()
    (home / "data/ucf101").symlink_to(ucf_raw)
    (home / "data/mine").symlink_to(numbered_raw)
    small_hmdb51(home / "data/hmdb51", numbered_raw)
    small_sports1m(home / "data/sports1m", numbered_raw)
    return home


def small_hmdb51(raw: Path, numbered_raw: Path) -> None:
    lists = raw / "testTrainMulti_7030_splits"
    lists.mkdir(parents=True)
    for name in ("even", "odd"):
        shutil.copytree(numbered_raw / name, raw / name)
        videos = sorted(path.name for path in (numbered_raw / name).iterdir())
        for split in (1, 2, 3):
            lines = "".join(f"{video} {1 + (i == 0)} \n" for i, video in enumerate(videos))
            (lists / f"{name}_test_split{split}.txt").write_text(lines)


def small_sports1m(raw: Path, numbered_raw: Path) -> None:
    (raw / "original").mkdir(parents=True)
    (raw / "videos").mkdir()
    (raw / "labels.txt").write_text("even\nodd\n")
    for label, name in enumerate(("even", "odd")):
        longest = sorted((numbered_raw / name).iterdir(), key=lambda path: path.stat().st_size)[-2:]
        for subset, path in zip(("train", "test"), longest, strict=True):
            key = f"{name}-{subset}".ljust(11, "x")
            shutil.copy2(path, raw / "videos" / f"{key}{path.suffix}")
            with (raw / "original" / f"{subset}_partition.txt").open("a") as lists:
                lists.write(f"https://www.youtube.com/watch?v={key} {label}\n")


def run(words: str, home: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(words, shell=True, cwd=home, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_every_command_of_the_readme_runs(home: Path) -> None:
    commands = [c for c in COMMANDS if not c.startswith("make")]
    assert len(commands) >= 6
    for command in commands + [c for c in IN_TEXT if c.startswith("python")]:
        added = next(
            (words for start, words in ADDED.items() if command.startswith(start) and "--help" not in command), ""
        )
        run(command + added, home)
    assert (home / "runs/ucf101/scores.json").is_file()


def test_the_two_make_commands_run(home: Path) -> None:
    if not (Path(sys.prefix) / ".ready").is_file():
        pytest.skip("this environment was not made by make, which would make it anew")
    assert [c for c in COMMANDS if c.startswith("make")] == ["make demo", "make test"]
    for name in ("Makefile", "constraints.txt", "setup.cfg", "pyproject.toml"):
        shutil.copy2(CHECKOUT / name, home / name)  # with their times: make must find the environment ready
    run(f"touch {sys.prefix}/.ready; make demo VENV={sys.prefix}{ADDED['make demo']}", home)
    assert (home / "demo/run/evaluation.json").is_file()
    run(f"make test VENV={sys.prefix}{ADDED['make test']}", home)


def test_the_python_of_the_readme_runs(home: Path) -> None:
    run("python tools/make_shards.py folder --raw data/mine --out shards/mine --test-fraction 0.2", home)
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", README, re.DOTALL)):
        (home / f"block{i}.py").write_text(block)
        run(f"python block{i}.py", home)


def test_files_that_the_readme_names_exist() -> None:
    tree = README.split("## Where things are")[1].split("## Read on")[0]
    folder, root = CHECKOUT, CHECKOUT
    for line in filter(None, tree.splitlines()):
        indent, names = (len(line) - len(line.lstrip())) // 2, re.findall(r"[\w./]+\.py|[\w./]+\.md|[\w/]+/(?= )", line)
        for name in names:
            if name.endswith("/") and indent == 2:
                folder = root / name
            assert ((folder if indent > 2 else root) / name).exists(), name
    for link in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (CHECKOUT / link).exists(), link
