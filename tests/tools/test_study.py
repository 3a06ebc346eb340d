"""tools/study.py: each training once, whatever is killed; tables, pictures and verdicts from what is done."""

import csv
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools import study
from res3d_video.tools.figures.cost import short_count
from res3d_video.tools.study_pool import Finished, Pool, Slot
from res3d_video.train.config import to_dict
from res3d_video.train.study.results import groups_of, is_done
from res3d_video.train.study.runs import StudyRun, StudySettings, plan_run
from res3d_video.train.study.tables import TABLES
from tests.train.conftest import CHECKOUT, build_squares
from tests.until import until

pytest.importorskip("scipy", reason="intervals need scipy")
pytest.importorskip("matplotlib", reason="the pictures need matplotlib")

DEADLINE_S = 60.0
# Stands in for train/main.py: notes that it was called, waits while there is a file `hold`, fails for rows of `fail`.
FAKE_TRAINER = """
import os, pathlib, signal, sys, time
here, out = pathlib.Path.cwd(), pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
with (here / "calls").open("a") as file:
    file.write(f"{out.parent.name} {os.environ.get('GPU', '')}\\n")
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
keys = json.loads(pathlib.Path("keys.json").read_text())
videos = [{"key": key, "num_clips": 2, "num_clips_right": right} for key in keys]
scores = {"step": int(checkpoint.read_text()), "predictions": videos, "video_at_1": right / 2, "chance": 0.5}
pathlib.Path(value("--json")).write_text(json.dumps(scores))
"""
SETTINGS = StudySettings(steps=5, batch_size=4, size=28, width_scale=0.125, clips=2)
TABLE_3 = TABLES[3].rows


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return build_squares(tmp_path_factory.mktemp("squares"), classes={"left": -3, "right": 3}, num_groups=6)


@pytest.fixture
def fakes(tmp_path: Path, squares: ShardIndex) -> Path:
    """A checkout whose two commands take milliseconds."""
    checkout = tmp_path / "checkout"
    for package, name, text in (("train", "main", FAKE_TRAINER), ("tools", "evaluate", FAKE_EVALUATOR)):
        (checkout / package).mkdir(parents=True)
        (checkout / package / "__init__.py").touch()
        (checkout / package / f"{name}.py").write_text(text)
    about = {"config": to_dict(runs_of(squares)[0].config), "data": {"name": squares.name}}
    (checkout / "config.json").write_text(json.dumps(about))
    (checkout / "keys.json").write_text(json.dumps(list(groups_of(squares, "1"))))
    return checkout


def runs_of(squares: ShardIndex, *, seed: int = 0) -> list[StudyRun]:
    return [plan_run(row, seed=seed, settings=SETTINGS, indexes=[squares]) for row in TABLE_3]


def pool_of(out: Path, checkout: Path, *gpus: str) -> Pool:
    return Pool(out, clips=2, checkout=checkout, slots=[Slot({"GPU": gpu}, "cpu", 1) for gpu in gpus or ("a",)])


def finish(pool: Pool, runs: list[StudyRun]) -> dict[str, str | None]:
    """Name of each run -> why it failed."""
    return {ended.run.name: ended.failed for ended in pool.work(runs, say=lambda line: None)}


def calls(checkout: Path) -> list[str]:
    """Networks that were trained, in order."""
    path = checkout / "calls"
    return [line.split("-")[0] for line in path.read_text().splitlines()] if path.exists() else []


def test_what_is_done_is_not_done_again(squares: ShardIndex, fakes: Path, tmp_path: Path) -> None:
    runs = runs_of(squares)
    assert finish(pool_of(tmp_path, fakes), runs[:2]) == {run.name: None for run in runs[:2]}
    assert finish(pool_of(tmp_path, fakes), runs) == {run.name: None for run in runs}
    assert calls(fakes) == ["res2d18", "res2d34", "res3d18", "res3d34"]
    assert all(is_done(tmp_path, run) for run in runs)


def test_a_run_whose_scoring_was_cut_off_is_done_again(squares: ShardIndex, fakes: Path, tmp_path: Path) -> None:
    (run, *_) = runs_of(squares)
    finish(pool_of(tmp_path, fakes), [run])
    scores = tmp_path / run.folder / "scores.json"
    scores.write_text(scores.read_text()[:-5])
    assert finish(pool_of(tmp_path, fakes), [run]) == {run.name: None}
    assert is_done(tmp_path, run)


def test_a_run_that_fails_is_named_with_its_reason_and_the_others_go_on(
    squares: ShardIndex, fakes: Path, tmp_path: Path
) -> None:
    (fakes / "fail").write_text("res2d34")
    found = finish(pool_of(tmp_path, fakes), runs_of(squares))
    failed = [reason for reason in found.values() if reason]
    assert len(found) == 4
    assert len(failed) == 1
    assert failed[0].endswith("/seed0/log.txt: Error: the disk is full")


def test_each_place_trains_one_network_at_a_time(squares: ShardIndex, fakes: Path, tmp_path: Path) -> None:
    (fakes / "hold").touch()
    runs, pool = runs_of(squares), pool_of(tmp_path, fakes, "0", "1")
    ended = pool.work(runs, say=lambda line: None)
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(list[Finished], ended)
        until(lambda: len(list(tmp_path.glob("runs/*/*/begun"))) == 2, seconds=DEADLINE_S)
        (fakes / "hold").unlink()
        assert [finished.failed for finished in done.result(DEADLINE_S)] == [None] * 4
    places = [line.split()[1] for line in (fakes / "calls").read_text().splitlines()]
    assert set(places[:2]) == {"0", "1"}


def test_a_pool_that_is_stopped_asks_its_trainings_to_save(squares: ShardIndex, fakes: Path, tmp_path: Path) -> None:
    (fakes / "hold").touch()
    (run, other, *_) = runs_of(squares)
    pool = pool_of(tmp_path, fakes)
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(list[Finished], pool.work([run, other], say=lambda line: None))
        until((tmp_path / run.folder / "begun").exists, seconds=DEADLINE_S)
        pool.stop()
        assert [finished.failed is None for finished in done.result(DEADLINE_S)] == [False, False]
    assert (tmp_path / run.folder / "asked").exists()
    assert calls(fakes) == ["res2d18"], "the second was not begun"


PROGRAM = """
import sys
from pathlib import Path
from res3d_video.pipeline.index import open_index
from tests.tools.test_study import finish, pool_of, runs_of
finish(pool_of(Path(sys.argv[2]), Path(sys.argv[3])), runs_of(open_index(Path(sys.argv[1])))[:2])
"""


def test_after_sigkill_a_training_that_lives_on_is_waited_for_and_not_repeated(
    squares: ShardIndex, fakes: Path, tmp_path: Path
) -> None:
    (fakes / "hold").touch()
    runs = runs_of(squares)[:2]
    command = [sys.executable, "-c", PROGRAM, str(squares.data_dir), str(tmp_path), str(fakes)]
    first = subprocess.Popen(command, cwd=CHECKOUT, env=os.environ | {"PYTHONPATH": str(CHECKOUT)})
    try:
        until((tmp_path / runs[0].folder / "begun").exists, seconds=DEADLINE_S)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    said: list[str] = []

    def release(line: str) -> None:
        said.append(line)
        (fakes / "hold").unlink()

    ended = list(pool_of(tmp_path, fakes).work(runs, say=release))
    assert [finished.failed for finished in ended] == [None, None]
    assert len(said) == 1
    assert said[0].endswith("a process of an earlier study is still at work there; waiting for it")
    assert calls(fakes).count("res2d34") == 1
    # the killed study's training ended by itself; what it had not done, the scores, was done after it
    assert all(is_done(tmp_path, run) for run in runs)


def invoke(squares: ShardIndex, out: Path, *options: str) -> Result:
    sizes = ["--steps", "5", "--batch-size", "4", "--size", "28", "--width-scale", "0.125", "--clips", "2"]
    command = ["--data", str(squares.data_dir), "--out", str(out), "--device", "cpu", *sizes, *options]
    return CliRunner().invoke(study.main, command, catch_exceptions=False)


@pytest.mark.slow
def test_tables_pictures_and_verdicts_come_from_what_is_done(
    squares: ShardIndex, fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "CHECKOUT", fakes)
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
    assert "  2 against 1: +0.0 points, between +0.0 and +0.0" in lines
    assert any(line.split()[:1] == ["3D-Res18"] and "100.0 ± 0.0" in line for line in lines)
    page = (out / "study.md").read_text()
    assert "| 3D networks beat 2D networks of the same depth | 3 | seen |" in page
    cost = f"{runs_of(squares)[0].parameters:,} | {short_count(runs_of(squares)[0].multiply_adds)}"
    assert f"| 2D-Res18 | res2d18 | {cost} | 2 | 50.0 ± 0.0 | 50.0 ± 0.0 | 42.2 |" in page
    assert "- not the paper's protocol: steps, batch size, size, width scale differ" in page
    for name in ("table-3.png", "table-3-curves.png", "table-4.png", "accuracy-cost.png"):
        with Image.open(out / name) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 10, name
    with (out / "table-4.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["frame_stride"] for row in rows] == ["1", "2", "4", "8", "16", "32"]
    assert (rows[1]["clip_accuracy"], rows[1]["clip_accuracy_spread"], rows[1]["paper_clip_accuracy"]) == (
        "50.0", "0.0", "46.3"
    )  # fmt: skip

    again = invoke(squares, out, "--tables", "3,4", "--seeds", "2")
    assert again.stdout == result.stdout
    assert len(calls(fakes)) == 20, "nothing was trained twice"


def test_a_report_of_half_a_study_says_what_lacks(
    squares: ShardIndex, fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "CHECKOUT", fakes)
    (fakes / "fail").write_text("res3d18")
    result = invoke(squares, tmp_path / "study", "--tables", "3")
    assert result.exit_code == 1
    assert "error: 1 of 4 runs failed; the first: " in result.stderr
    assert "  3D-Res18 not run" in result.stdout
    report = invoke(squares, tmp_path / "study", "--tables", "3", "--report")
    assert report.exit_code == 0
    assert len(calls(fakes)) == 4


def test_a_table_at_the_level_of_chance_is_called_so(
    squares: ShardIndex, fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "CHECKOUT", fakes)
    (fakes / "fail").write_text("res3d")  # what is left gets half of the clips right, and there are two classes
    result = invoke(squares, tmp_path / "study", "--tables", "3")
    assert "note: table 3: no row is 5 points above chance, 50.0%; train longer" in result.stdout
    report = invoke(squares, tmp_path / "study", "--tables", "3", "--report")
    assert "train longer" in report.stdout


def test_another_study_is_not_mixed_into_a_folder(squares: ShardIndex, tmp_path: Path) -> None:
    assert invoke(squares, tmp_path, "--tables", "3", "--report").exit_code == 0
    result = invoke(squares, tmp_path, "--tables", "3", "--report", "--no-flip")
    assert result.exit_code == 1
    assert f"error: {tmp_path}: holds a study with another flip (True); choose another --out" in result.stderr
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
    pool = Pool(tmp_path, clips=2, checkout=CHECKOUT, slots=[Slot({"OMP_NUM_THREADS": "1"}, "cpu", 1)])
    assert finish(pool, [run]) == {run.name: None}
    assert is_done(tmp_path, run)
