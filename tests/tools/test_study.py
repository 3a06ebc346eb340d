"""tools/study.py: each training once, whatever is killed; tables, pictures and verdicts from what is done."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools import study
from res3d_video.tools.figures.plots import short_count
from res3d_video.tools.study import Trainings
from res3d_video.train.config import to_dict
from res3d_video.train.paper.study import StudyRun, StudySettings, plan_run, read_scores
from res3d_video.train.paper.tables import TABLES
from tests.train.conftest import build_squares
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
(out / "config.json").write_text((here / "config.json").read_text())
(out / "metrics.jsonl").write_text('{"event": "train", "step": 5, "loss": 0.5}\\n')
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
SETTINGS = StudySettings(steps=5, batch_size=4, size=28, width_scale=0.125, clips=2)
TABLE_3 = TABLES[3].rows


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return build_squares(tmp_path_factory.mktemp("squares"), classes={"left": -3, "right": 3}, num_groups=6)


@pytest.fixture
def fakes(tmp_path: Path, squares: ShardIndex, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose two commands take milliseconds."""
    checkout = tmp_path / "checkout"
    for package, name, text in (("train", "main", FAKE_TRAINER), ("tools", "evaluate", FAKE_EVALUATOR)):
        (checkout / package).mkdir(parents=True)
        (checkout / package / "__init__.py").touch()
        (checkout / package / f"{name}.py").write_text(text)
    about = {"config": to_dict(runs_of(squares)[0].config), "data": {"name": squares.name}}
    (checkout / "config.json").write_text(json.dumps(about))
    monkeypatch.setattr(study, "CHECKOUT", checkout)
    return checkout


def runs_of(squares: ShardIndex, *, seed: int = 0) -> list[StudyRun]:
    return [plan_run(row, seed=seed, settings=SETTINGS, indexes=[squares]) for row in TABLE_3]


def train(out: Path, runs: list[StudyRun], *gpus: str) -> list[str]:
    """Reasons of those that failed."""
    return Trainings(out, kind="cpu", clips=2, gpus=gpus or [""]).work(runs, quiet=True)


def calls(checkout: Path) -> list[str]:
    """Networks that were trained, in order."""
    path = checkout / "calls"
    return [line.split("-")[0] for line in path.read_text().splitlines()] if path.exists() else []


def test_a_run_that_fails_is_named_with_its_reason_and_the_others_go_on(
    squares: ShardIndex, fakes: Path, tmp_path: Path
) -> None:
    (fakes / "fail").write_text("res2d34")
    (failed,) = train(tmp_path, runs_of(squares))
    assert failed.endswith("/seed0/log.txt: Error: the disk is full")
    assert [read_scores(tmp_path, run) is None for run in runs_of(squares)] == [False, True, False, False]


def test_each_gpu_trains_one_network_at_a_time(squares: ShardIndex, fakes: Path, tmp_path: Path) -> None:
    (fakes / "hold").touch()

    def release() -> None:
        until(lambda: len(list(tmp_path.glob("runs/*/*/begun"))) == 2, seconds=DEADLINE_S)
        (fakes / "hold").unlink()

    with ThreadPoolExecutor(1) as thread:
        released = thread.submit(release)
        assert not train(tmp_path, runs_of(squares), "0", "1")
        released.result(DEADLINE_S)
    gpus = [line.split()[1] for line in (fakes / "calls").read_text().splitlines()]
    assert set(gpus[:2]) == {"0", "1"}
    assert len(gpus) == 4


def test_trainings_that_are_stopped_are_asked_to_save(squares: ShardIndex, fakes: Path, tmp_path: Path) -> None:
    (fakes / "hold").touch()
    run, other, *_ = runs_of(squares)
    trainings = Trainings(tmp_path, kind="cpu", clips=2)

    def stop() -> None:
        until((tmp_path / run.folder / "begun").exists, seconds=DEADLINE_S)
        trainings.stop()

    with ThreadPoolExecutor(1) as thread:
        stopped = thread.submit(stop)
        assert len(trainings.work([run, other], quiet=True)) == 2
        stopped.result(DEADLINE_S)
    assert (tmp_path / run.folder / "asked").exists()
    assert calls(fakes) == ["res2d18"], "the second was not begun"


def invoke(squares: ShardIndex, out: Path, *options: str) -> Result:
    sizes = ["--steps", "5", "--batch-size", "4", "--size", "28", "--width-scale", "0.125", "--clips", "2"]
    command = ["--data", str(squares.data_dir), "--out", str(out), "--device", "cpu", *sizes, *options]
    return CliRunner().invoke(study.main, command, catch_exceptions=False)


@pytest.mark.slow
def test_tables_pictures_and_verdicts_come_from_what_is_done(squares: ShardIndex, fakes: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    listed = invoke(squares, out, "--tables", "3,4", "--list")
    assert listed.stdout.splitlines()[-1] == "10 runs, 10 to do, 50 steps"
    assert not calls(fakes)

    result = invoke(squares, out, "--tables", "3,4", "--seeds", "2")
    assert result.exit_code == 0, result.output
    assert len(calls(fakes)) == 20
    lines = result.stdout.splitlines()
    assert "3D networks beat 2D networks of the same depth: seen" in lines
    assert "taking one of every 2 to 4 frames is best: undecided" in lines
    assert "  2 against 1: +0.0 points, but not in every seed" in lines
    assert any(line.split()[:1] == ["3D-Res18"] and "100.0 ± 0.0" in line for line in lines)
    page = (out / "study.md").read_text()
    assert "| 3D networks beat 2D networks of the same depth | 3 | seen |" in page
    cost = f"{runs_of(squares)[0].parameters:,} | {short_count(runs_of(squares)[0].multiply_adds)}"
    assert f"| 2D-Res18 | res2d18 | {cost} | 2 | 50.0 ± 0.0 | 50.0 ± 0.0 | 42.2 |" in page
    assert "- not the paper's protocol: steps, batch size, size, width scale differ" in page
    for name in ("table-3.png", "table-3-curves.png", "table-4.png", "accuracy-cost.png"):
        with Image.open(out / name) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 10, name
    with (out / "tables.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == "4"]
    assert [row["frame_stride"] for row in rows] == ["1", "2", "4", "8", "16", "32"]
    assert (rows[1]["clip_accuracy"], rows[1]["clip_accuracy_spread"], rows[1]["paper_clip_accuracy"]) == (
        "50.0", "0.0", "46.3"
    )  # fmt: skip

    again = invoke(squares, out, "--tables", "3,4", "--seeds", "2")
    assert again.stdout == result.stdout
    assert len(calls(fakes)) == 20, "nothing was trained twice"

    scores = next(out.glob("runs/*/seed1/scores.json"))
    scores.write_text(scores.read_text()[:-5])  # as a kill leaves it
    assert invoke(squares, out, "--tables", "3,4", "--seeds", "2").stdout == result.stdout
    assert len(calls(fakes)) == 21


def test_a_report_of_half_a_study_says_what_lacks(squares: ShardIndex, fakes: Path, tmp_path: Path) -> None:
    (fakes / "fail").write_text("res3d18")
    result = invoke(squares, tmp_path / "study", "--tables", "3")
    assert result.exit_code == 1
    assert "error: 1 of 4 runs failed; the first: " in result.stderr
    assert "  3D-Res18 not run" in result.stdout
    report = invoke(squares, tmp_path / "study", "--tables", "3", "--report")
    assert report.exit_code == 0
    assert len(calls(fakes)) == 4


def test_a_table_at_the_level_of_chance_is_called_so(squares: ShardIndex, fakes: Path, tmp_path: Path) -> None:
    (fakes / "fail").write_text("res3d")  # what is left gets half of the clips right, and there are two classes
    result = invoke(squares, tmp_path / "study", "--tables", "3")
    assert "note: table 3: no row is 5 points above chance, 50.0%; train longer" in result.stdout
    report = invoke(squares, tmp_path / "study", "--tables", "3", "--report")
    assert "train longer" in report.stdout


def test_another_study_is_not_mixed_into_a_folder(squares: ShardIndex, tmp_path: Path) -> None:
    assert invoke(squares, tmp_path, "--tables", "3", "--report").exit_code == 0
    result = invoke(squares, tmp_path, "--tables", "3", "--report", "--lr", "0.5")
    assert result.exit_code == 1
    assert f"error: {tmp_path}: holds a study with another lr (None); choose another --out" in result.stderr
    assert invoke(squares, tmp_path, "--tables", "7", "--report").exit_code == 0, "tables may be added"


def test_wrong_tables_and_other_videos_are_refused(squares: ShardIndex, numbered: ShardIndex, tmp_path: Path) -> None:
    result = invoke(squares, tmp_path, "--tables", "8")
    assert result.exit_code == 2
    assert "--tables: 8 is not among 3, 4, 5, 6, 7" in result.stderr
    result = invoke(squares, tmp_path, "--data", str(numbered.data_dir))
    assert result.exit_code == 1
    assert "give one dataset at several sizes" in result.stderr


@pytest.mark.long
def test_the_real_commands_train_and_score_a_row(squares: ShardIndex, tmp_path: Path) -> None:
    run = plan_run(TABLES[4].rows[0], seed=0, settings=SETTINGS, indexes=[squares])
    assert not train(tmp_path, [run])
    assert read_scores(tmp_path, run) is not None
