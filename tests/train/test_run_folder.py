"""A run's folder: one trainer at a time, and checkpoints that may fail."""

import errno
import fcntl
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

import res3d_video.train.run_folder
from res3d_video.pipeline.errors import UserError
from res3d_video.train.config import TrainConfig
from res3d_video.train.ranks import Ranks
from res3d_video.train.run_folder import (
    LOCK,
    CheckpointFiles,
    check_agreement,
    log_fetched,
    only_trainer,
    with_the_same_groups,
)
from tests.checkpoints import tiny_state


def lock(folder: Path, *, rank: int = 0) -> None:
    with only_trainer(folder, Ranks(rank=rank), say=pytest.fail):
        pass


def test_a_second_trainer_is_refused_while_the_first_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(res3d_video.train.run_folder, "LOCK_TIMEOUT_S", 0)
    folder = tmp_path / "runs" / "new"
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('locked', flush=True); input()"
    with only_trainer(folder, Ranks(), say=pytest.fail):
        lock(folder, rank=1)
    command = [sys.executable, "-c", code, str(folder / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match=rf"^--out: another trainer is at work in {folder}; wait"):
            lock(folder)
        other.kill()
    lock(folder)


def test_what_a_killed_trainer_left_half_written_goes(tmp_path: Path) -> None:
    left = (".latest.pt.tmp", ".step-5.pt.tmp", ".metrics.jsonl.0-1.tmp", ".config.json.0-1.tmp")
    for name in (*left, "latest.pt", ".scores.json.tmp"):
        (tmp_path / name).write_bytes(b"half")
    lock(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".scores.json.tmp", LOCK, "latest.pt"]


def test_a_folder_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^--out: nothing can be written to .*file/run \(Not a directory\); make"):
        lock(tmp_path / "file" / "run")


def test_where_there_are_no_locks_it_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    said: list[str] = []
    with only_trainer(tmp_path, Ranks(), say=said.append):
        assert said == [f"{tmp_path}: this file system has no locks; see to it that no other trainer writes there"]


def test_ranks_that_see_different_checkpoints_or_shards_do_not_train_together(tmp_path: Path) -> None:
    ranks: Any = SimpleNamespace(gather=lambda own: [own, (40, "0123456789")])
    index, other = (Mock(fingerprint=fingerprint) for fingerprint in ("0123456789", "abcdefghij"))
    check_agreement(tmp_path, ranks, tiny_state(40), index)
    with pytest.raises(UserError, match=r"different steps in .* \(0, 40\); it must be one folder"):
        check_agreement(tmp_path, ranks, None, index)
    with pytest.raises(
        UserError, match=r"--data: the shards of rank 1 \(01234567…\) are not those of rank 0 \(abcdefgh"
    ):
        check_agreement(tmp_path, ranks, tiny_state(40), other)


def test_a_file_that_could_not_be_written_is_not_missed_when_a_later_latest_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = CheckpointFiles(tmp_path, say=Mock(), log=Mock())
    with monkeypatch.context() as patch:
        full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
        patch.setattr(res3d_video.train.run_folder, "save_checkpoint", full)
        for step, name in ((2, "latest.pt"), (3, "step-3.pt")):
            files.save(name, tiny_state(step))
    with pytest.raises(UserError, match=r"latest.pt of step 2 could not be written \(No space left on device\)"):
        files.check()
    files.save("latest.pt", tiny_state(4))
    files.check()


def test_a_machine_with_a_copy_in_a_folder_has_the_groups_of_those_that_read_a_url() -> None:
    ranks: Any = SimpleNamespace(gather=lambda own: [own, 80])
    assert with_the_same_groups(TrainConfig(), ranks) == TrainConfig(canonical_groups=80)


def test_the_bytes_that_the_processes_of_a_machine_fetched_are_added_up() -> None:
    ranks: Any = SimpleNamespace(gather=lambda own: [own, 5, 3])
    log, index = Mock(), Mock(**{"store.bytes_fetched": 4})
    log_fetched(log, index, ranks, ["a", "b", "a"], step=7, epoch=1)
    machines = [{"host": "a", "bytes_fetched": 7}, {"host": "b", "bytes_fetched": 5}]
    log.write.assert_called_once_with("fetched", step=7, epoch=1, machines=machines)
    log_fetched(None, Mock(store=None), Ranks(), ["a"], step=7, epoch=1)
