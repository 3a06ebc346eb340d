"""The record of a run: resumed logs, losses over ranks, throughput."""

import errno
import json
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, Mock

import numpy as np
import pytest
import torch

from res3d_video.pipeline.errors import UserError
from res3d_video.train.metrics import MetricsLog, StepOutcome, check_finite
from res3d_video.train.ranks import Ranks
from tests.train.conftest import Trainer, room_for


def steps_in(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_resumed_log_forgets_what_comes_again_and_numbers_that_json_does_not_have_are_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"event": "train", "step": s}) + "\n" for s in (1, 2, 3, 4)) + '{"event": "tr')
    log = MetricsLog(tmp_path, start=2)
    log.write("train", step=3, loss=math.nan, lr=0.1)
    log.close()
    assert steps_in(path) == [1, 2, 3]
    assert json.loads(path.read_text().splitlines()[-1]) == {"event": "train", "step": 3, "loss": None, "lr": 0.1}


def test_lines_without_room_wait_and_are_there_once_when_there_is_room(tmp_path: Path) -> None:
    said: list[str] = []
    log = MetricsLog(tmp_path, start=0, say=said.append)
    log.write("train", step=1)
    with room_for(len(log.path.read_bytes()) + 10):  # the middle of the next line
        for step in (2, 3):
            log.write("train", step=step)
        assert steps_in(log.path) == [1]
    log.write("train", step=4)
    assert steps_in(log.path) == [1, 2, 3, 4]
    with room_for(0):
        log.write("train", step=5)
        log.close()
    assert said == [
        f"{log.path}: cannot be written (File too large); its lines wait",
        f"{log.path}: can be written again, and 2 lines that waited are there",
        f"{log.path}: cannot be written (File too large); its lines wait",
        f"{log.path}: the last 1 lines are lost",
    ]


def test_a_tensorboard_that_cannot_write_is_given_up(tmp_path: Path) -> None:
    said: list[str] = []
    log = MetricsLog(tmp_path, start=0, say=said.append)
    assert log.board is not None
    full_disk = Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    log.board.add_scalar = full_disk  # type: ignore[method-assign]  # as its thread does
    for step in (1, 2):
        log.write("train", step=step, loss=0.5)
    log.close()
    assert steps_in(log.path) == [1, 2]
    assert said == [f"{tmp_path / 'tensorboard'}: cannot be written (No space left on device); given up"]


def test_the_message_about_a_bad_loss_stays_one_line() -> None:
    losses = torch.full((31,), math.nan).index_fill_(0, torch.tensor([3]), 1.0)
    outcome = StepOutcome(8, math.nan, False, 0, 0, 8, 8, None, np.arange(31), losses, {})
    first = "step 8: the loss is nan for samples 00000000, 00000001, 00000002, 00000004, "
    with pytest.raises(UserError, match=f"^{first}.* 00000020 and 10 more;"):
        check_finite(outcome, SimpleNamespace(key=lambda row: f"{row:08d}"), Ranks())


def test_wandb_and_trackio_get_the_numbers_of_each_event(
    run_main: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = MagicMock()
    calls.init.side_effect = calls.finish.side_effect = lambda **options: print("told by the tracker")
    monkeypatch.setitem(sys.modules, "wandb", calls)
    monkeypatch.setitem(sys.modules, "trackio", calls)
    for name in ("wandb", "trackio"):
        done = run_main(tmp_path / name, "--steps", "2", "--log", name, "--json")
        assert json.loads(done.stdout)["step"] == 2
        assert done.stderr.count("told by the tracker") == 2
        begun = calls.init.call_args.kwargs
        assert (begun["project"], begun["name"], begun["resume"]) == ("res3d-video", name, "allow")
        assert begun["config"]["model"]["name"] == "res3d10"
        logged = [(call.kwargs["step"], set(call.args[0])) for call in calls.log.call_args_list[-3:]]
        assert [step for step, _ in logged] == [1, 2, 2]
        assert "train/loss" in logged[0][1]
        assert "final/video_at_1" in logged[2][1]
        calls.finish.assert_called()
        calls.finish.reset_mock()
    monkeypatch.setitem(sys.modules, "wandb", None)
    missing = run_main(tmp_path / "missing", "--steps", "1", "--log", "wandb", exit_code=1)
    assert missing.stderr.endswith("error: --log: wandb is not installed; pip install wandb\n")
