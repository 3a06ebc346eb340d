"""The record of a run: resumed logs, losses over ranks, throughput."""

import errno
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, Mock

import numpy as np
import pytest
import torch

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.loader import Batch
from res3d_video.train.metrics import MetricsLog, StepOutcome, Throughput, WaitTimer, check_finite
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
    outcome = StepOutcome(8, math.nan, False, 0, 0, 8, 8, [0.0], np.arange(31), losses, {})
    first = "step 8: the loss is nan for samples 00000000, 00000001, 00000002, 00000004, "
    with pytest.raises(UserError, match=f"^{first}.* 00000020 and 10 more;"):
        check_finite(outcome, SimpleNamespace(key=lambda row: f"{row:08d}"), Ranks())


def test_throughput_leaves_pauses_out(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    now_s = 100.0
    monkeypatch.setattr("res3d_video.train.metrics.time.monotonic", lambda: now_s)
    meter = Throughput(10, world_size=2)
    now_s = 104.0
    with meter.pause():
        now_s = 154.0
    for _ in range(5):
        meter.add([0.125, 0.25])
    now_s = 155.0
    assert meter.read() == {"clips_per_s": 10.0, "data_wait_s": 1.25, "data_wait": 0.25, "data_wait_rank": 1}
    now_s = 157.0
    meter.add([0.5, 0.25])
    assert meter.read() == {"clips_per_s": 5.0, "data_wait_s": 0.5, "data_wait": 0.25, "data_wait_rank": 0}


class FakeEvent:
    """Of a GPU that has come to so many of its events; `now_s` is its clock."""

    now_s, recorded, reached = 0.0, 0, 0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.time_s, self.number = FakeEvent.now_s, FakeEvent.recorded
        FakeEvent.recorded += 1

    def query(self) -> bool:
        return self.number < FakeEvent.reached

    def elapsed_time(self, other: "FakeEvent") -> float:
        assert other.query(), "not known yet"
        return 1000 * (other.time_s - self.time_s)


def test_on_a_gpu_the_wait_for_data_is_the_streams_and_known_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)

    def batches() -> Iterator[Batch]:
        for wait_s in (0.5, 0.0, 0.25, 0.0):
            FakeEvent.now_s += wait_s
            yield SimpleNamespace(wait_s=9.0)  # of the host

    timer, waits = WaitTimer(batches(), torch.device("cuda")), []
    for behind in (2, 2, 0, 0):  # steps that the GPU is behind the host
        FakeEvent.reached = max(0, FakeEvent.recorded + 2 - 2 * behind)
        waits.append(timer.take().wait_s)
    assert waits == [0.0, 0.0, 0.75, 0.0]
    with pytest.raises(StopIteration):
        timer.take()


def test_wandb_and_trackio_get_the_numbers_of_each_event(
    run_main: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = MagicMock()
    calls.init.return_value = calls
    monkeypatch.setitem(sys.modules, "wandb", calls)
    monkeypatch.setitem(sys.modules, "trackio", calls)
    for name in ("wandb", "trackio"):
        run_main(tmp_path / name, "--steps", "2", "--log", name)
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
