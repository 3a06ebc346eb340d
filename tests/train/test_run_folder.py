"""A run's folder: one trainer at a time, and checkpoints that may fail."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import res3d_video.train.run_folder
from res3d_video.train.checkpoint import load_checkpoint
from res3d_video.train.metrics import MetricsLog
from res3d_video.train.ranks import Ranks
from res3d_video.train.run_folder import LOCK, CheckpointFiles, RunFolderError, check_agreement, only_trainer
from tests.checkpoints import tiny_state
from tests.schemas import check_schema


class FoundSteps(Ranks):
    """Ranks of which each found a checkpoint of some step."""

    def gather(self, value: Any) -> list[Any]:
        return [value, 40]


def test_a_second_trainer_is_refused_and_the_first_named(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "new"
    with only_trainer(folder, Ranks(), say=pytest.fail):
        with (
            pytest.raises(RunFolderError, match=rf"another trainer \(process {os.getpid()} on .*\) is at work in"),
            only_trainer(folder, Ranks(), say=pytest.fail, patience_s=0),
        ):
            pass
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
    with only_trainer(folder, Ranks(), say=pytest.fail, patience_s=0):
        pass


def test_a_trainer_that_is_about_to_end_is_waited_for(tmp_path: Path) -> None:
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('locked', flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(RunFolderError), only_trainer(tmp_path, Ranks(), say=pytest.fail, patience_s=0):
            pass
        other.kill()  # the lock is free as soon as the process is gone, whenever that is
        with only_trainer(tmp_path, Ranks(), say=pytest.fail, patience_s=30):
            pass


def test_other_ranks_and_other_locks_are_none_of_its_business(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("the study's")
    with only_trainer(tmp_path, Ranks(), say=pytest.fail), only_trainer(tmp_path, Ranks(rank=1), say=pytest.fail):
        assert (tmp_path / ".lock").read_text() == "the study's"


def test_what_a_killed_trainer_left_half_written_goes(tmp_path: Path) -> None:
    left = (".latest.pt.tmp", ".step-5.pt.tmp", ".metrics.jsonl.tmp", ".config.json.tmp")
    for name in (*left, "latest.pt", ".scores.json.tmp"):
        (tmp_path / name).write_bytes(b"half")
    with only_trainer(tmp_path, Ranks(), say=pytest.fail):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".scores.json.tmp", LOCK, "latest.pt"]


def test_a_folder_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunFolderError, match=r"^--out: nothing can be written to .*file/run \(Not a directory\); make"),
        only_trainer(tmp_path / "file" / "run", Ranks(), say=pytest.fail),
    ):
        pass


def test_where_there_are_no_locks_it_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(res3d_video.train.run_folder.fcntl, "flock", flock)
    said: list[str] = []
    with only_trainer(tmp_path, Ranks(), say=said.append):
        assert said == [
            f"{tmp_path}: this file system has no locks; see to it that no other trainer writes there",
        ]


def test_ranks_that_see_different_checkpoints_do_not_train_together(tmp_path: Path) -> None:
    check_agreement(tmp_path, FoundSteps(), tiny_state(40))
    with pytest.raises(RunFolderError, match=r"different steps in .* \(0, 40\); it must be one folder"):
        check_agreement(tmp_path, FoundSteps(), None)


@pytest.fixture
def full_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps whose checkpoints find no room."""
    full: list[int] = []
    save = res3d_video.train.run_folder.save_checkpoint

    def save_if_room(path: Path, state: dict[str, Any], **options: Any) -> None:
        if state["step"] in full:
            raise OSError(28, "No space left on device")
        save(path, state, **options)

    monkeypatch.setattr(res3d_video.train.run_folder, "save_checkpoint", save_if_room)
    return full


def test_a_checkpoint_that_cannot_be_written_costs_a_line_and_the_old_one_stays(
    tmp_path: Path, full_at: list[int]
) -> None:
    full_at += [2, 3]
    said: list[str] = []
    log = MetricsLog(tmp_path, start=0)
    files = CheckpointFiles(tmp_path, say=said.append, log=log)
    for step in (1, 2):
        files.save("latest.pt", tiny_state(step))
    assert load_checkpoint(tmp_path / "latest.pt")["step"] == 1
    assert said == [
        f"NOT SAVED: {tmp_path / 'latest.pt'} of step 2 (No space left on device); the one of step 1 stays, "
        "training goes on"
    ]
    told = json.loads((tmp_path / "metrics.jsonl").read_text())
    check_schema("metrics.jsonl not_saved", told)
    assert told == {"event": "not_saved", "step": 2, "file": "latest.pt", "reason": "No space left on device"}
    with pytest.raises(RunFolderError) as caught:
        files.check()
    assert str(caught.value) == (
        f"{tmp_path}: latest.pt of step 2 could not be written (No space left on device); the one of step 1 stays; "
        "make room and go on with --resume auto"
    )
    files.save("step-3.pt", tiny_state(3))  # a file that stays behind is not missed at the end
    files.save("latest.pt", tiny_state(4))
    files.check()
    assert [load_checkpoint(tmp_path / name)["step"] for name in ("latest.pt", "previous.pt")] == [4, 1]
    log.close()


def test_the_checkpoint_of_an_earlier_process_is_named_as_such(tmp_path: Path, full_at: list[int]) -> None:
    full_at.append(2)
    (tmp_path / "latest.pt").write_bytes(b"of before")
    said: list[str] = []
    files = CheckpointFiles(tmp_path, say=said.append, log=MetricsLog(tmp_path, start=0))
    for name in ("latest.pt", "best.pt"):
        files.save(name, tiny_state(2))
    assert "; the one from before stays, training" in said[0]
    assert "; there is none before it, training" in said[1]
    assert (tmp_path / "latest.pt").read_bytes() == b"of before"
