"""tools/study.py: each training once, whatever is killed; tables, pictures and verdicts from what is done."""

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools import study
from res3d_video.train.paper.study import TABLES, StudyRun, StudySettings, plan_run, read_scores
from tests.tools.commands import run
from tests.until import until

pytest.importorskip("matplotlib", reason="the pictures need matplotlib")

DEADLINE_S = 60.0
# Stands in for train/main.py: notes that it was called, waits while there is a file `hold`, fails for rows of `fail`.
FAKE_TRAINER = """
import os, pathlib, signal, sys, time
here, out = pathlib.Path.cwd(), pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
with (here / "calls").open("a") as file:
    file.write(f"{out.parent.name} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}\\n")
def asked(*_):
    (out / "asked").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, asked)
(out / "begun").touch()
while (here / "hold").exists():
    time.sleep(0.01)
if (here / "fail").exists() and (here / "fail").read_text() in out.parent.name:
    sys.exit("Error: the disk is full")
(out / "latest.pt").write_text(sys.argv[sys.argv.index("--scale-to-steps") + 1])
"""
# Stands in for tools/evaluate.py: of two clips of each video those of 3D networks are right, of the others one.
FAKE_EVALUATOR = """
import json, pathlib, sys
value = lambda name: sys.argv[sys.argv.index(name) + 1]
checkpoint = pathlib.Path(value("--checkpoint"))
right = 2 if "res3d" in checkpoint.parent.parent.name else 1
scores = {"step": int(checkpoint.read_text()), "all_clips_at_1": right / 2, "video_at_1": right / 2, "chance": 0.5}
pathlib.Path(value("--json")).write_text(json.dumps(scores))
"""
SETTINGS = StudySettings(steps=5, batch_size=4, size=28, width_scale=0.125)


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose two commands take milliseconds."""
    checkout = tmp_path / "checkout"
    for package, name, text in (("train", "main", FAKE_TRAINER), ("tools", "evaluate", FAKE_EVALUATOR)):
        (checkout / package).mkdir(parents=True)
        (checkout / package / "__init__.py").touch()
        (checkout / package / f"{name}.py").write_text(text)
    monkeypatch.setattr(study, "CHECKOUT", checkout)
    return checkout


def runs_of(squares: ShardIndex) -> list[StudyRun]:
    return [plan_run(row, seed=0, settings=SETTINGS, indexes=[squares]) for row in TABLES[3].rows]


def calls(checkout: Path) -> list[str]:
    """Networks that were trained, in order."""
    path = checkout / "calls"
    return [line.split("-")[0] for line in path.read_text().splitlines()] if path.exists() else []


def test_each_gpu_trains_one_network_at_a_time(squares: ShardIndex, fakes: Path, tmp_path: Path) -> None:
    (fakes / "hold").touch()

    def release() -> None:
        until(lambda: len(list(tmp_path.glob("runs/*/*/begun"))) == 2, seconds=DEADLINE_S)
        (fakes / "hold").unlink()

    with ThreadPoolExecutor(1) as thread:
        released = thread.submit(release)
        assert not study.train_all(runs_of(squares), out=tmp_path, gpus=["0", "1"], device="cpu", quiet=True)
        released.result(DEADLINE_S)
    gpus = [line.split()[1] for line in (fakes / "calls").read_text().splitlines()]
    assert set(gpus[:2]) == {"0", "1"}
    assert len(gpus) == 4


def invoke(squares: ShardIndex, out: Path, *options: object, code: int = 0) -> Result:
    sizes = ["--steps", "5", "--batch-size", "4", "--size", "28", "--width-scale", "0.125"]
    return run(study.main, "--data", squares.data_dir, "--out", out, "--device", "cpu", *sizes, *options, code=code)


@pytest.mark.slow
def test_tables_pictures_and_verdicts_come_from_what_is_done(squares: ShardIndex, fakes: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    result = invoke(squares, out, "--tables", "3,4", "--seeds", "2")
    assert len(calls(fakes)) == 20
    page = (out / "study.md").read_text()
    assert result.stdout == f"{page}\nreport {out / 'study.md'}\n"
    cost = f"{runs_of(squares)[0].parameters:,} | {runs_of(squares)[0].multiply_adds / 1e6:,.0f}M"
    for said in (
        "**undecided**: taking one of every 2 to 4 frames is best.",
        "- 2 against 1: +0.0 points, but not in every seed",
        "| 3D networks beat 2D networks of the same depth | 3 | seen |",
        f"| 2D-Res18 | res2d18 | {cost} | 2 | 50.0 ± 0.0 | 50.0 ± 0.0 | 42.2 |",
        "- not the paper's protocol: steps, batch size, size, width scale differ",
    ):
        assert said in page
    for name in ("table-3.png", "table-4.png"):
        with Image.open(out / name) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 10, name
    with (out / "tables.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == "4"]
    assert [row["row"] for row in rows] == ["1", "2", "4", "8", "16", "32"]
    assert (rows[1]["clip accuracy"], rows[1]["paper"]) == ("50.0 ± 0.0", "46.3")

    again = invoke(squares, out, "--tables", "3,4", "--seeds", "2")
    assert again.stdout == result.stdout
    assert len(calls(fakes)) == 20, "nothing was trained twice"

    scores = next(out.glob("runs/*/seed1/scores.json"))
    scores.write_text(scores.read_text()[:-5])  # as a kill leaves it
    assert invoke(squares, out, "--tables", "3,4", "--seeds", "2").stdout == result.stdout
    assert len(calls(fakes)) == 21


def test_a_run_that_fails_is_named_and_the_report_of_the_others_says_what_lacks(
    squares: ShardIndex, fakes: Path, tmp_path: Path
) -> None:
    (fakes / "fail").write_text("res3d")  # what is left gets half of the clips right, and there are two classes
    result = invoke(squares, tmp_path / "study", "--tables", "3", code=1)
    assert "error: 2 of 4 runs failed; the first: " in result.stderr
    assert result.stderr.splitlines()[-1].endswith("/seed0/log.txt: Error: the disk is full")
    report = invoke(squares, tmp_path / "study", "--tables", "3", "--report")
    assert report.stdout == result.stdout
    assert "- 3D-Res18 not run" in report.stdout
    assert "- table 3: no row is 5 points above chance, 50.0%; train longer" in report.stdout
    assert len(calls(fakes)) == 4


def test_another_study_other_videos_and_wrong_tables_are_refused(
    squares: ShardIndex, numbered: ShardIndex, tmp_path: Path
) -> None:
    for table in ("3", "7"):  # tables may be added
        invoke(squares, tmp_path, "--tables", table, "--report")
    for options, code, message in (
        (["--report", "--lr", "0.5"], 1, f"error: {tmp_path}: holds a study with other lr; choose another --out"),
        (["--data", str(numbered.data_dir)], 1, "give one dataset at several sizes"),
        (["--tables", "8"], 2, "--tables must be some of 3, 4, 5, 6, 7, got 8"),
    ):
        assert message in invoke(squares, tmp_path, *options, code=code).stderr


@pytest.mark.long
def test_the_real_commands_train_and_score_a_row(squares: ShardIndex, tmp_path: Path) -> None:
    planned = plan_run(TABLES[4].rows[0], seed=0, settings=SETTINGS, indexes=[squares])
    assert not study.train_all([planned], out=tmp_path, gpus=[""], device="cpu", quiet=True)
    assert read_scores(tmp_path, planned) is not None
