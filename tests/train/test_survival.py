"""Training under faults, from outside: full disks, hung disks, clocks, processes and machines that are killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import res3d_video.pipeline.reader
from res3d_video.pipeline.index import ShardIndex
from res3d_video.train.checkpoint import load_checkpoint
from tests.chaos.ledger import started, wait_until
from tests.chaos.training import is_same, results_in
from tests.schemas import check_schema
from tests.train.conftest import NARROW, SMALL, Trainer, command_line, read_metrics, room_for, run_program, values_in
from tests.warm import CHECKOUT, Warm, places


def test_on_a_full_disk_training_goes_on_and_ends_with_an_error(run_main: Trainer, tmp_path: Path) -> None:
    options = [*NARROW, "--save-every", "2", "--resume", "auto"]
    run_main(tmp_path / "calm", *NARROW, "--steps", "6")
    out = tmp_path / "run"
    run_main(out, *options, "--steps", "6", "--keep-every", "2")
    for name in ("latest.pt", "best.pt", "previous.pt", "step-4.pt", "step-6.pt"):
        (out / name).unlink()
    (out / "step-2.pt").rename(out / "latest.pt")
    with room_for(30_000):  # enough for a line, not for a checkpoint
        result = run_main(out, *options, "--steps", "6", exit_code=1)
    for step in (4, 6):
        assert f"NOT SAVED: {out / 'latest.pt'} of step {step} (File too large); an older one stays" in result.stdout
    assert "latest.pt of step 6 could not be written (File too large); make room" in result.stderr
    not_saved = read_metrics(out, "not_saved")
    check_schema("metrics.jsonl not_saved", not_saved)
    assert [line["step"] for line in not_saved] == [4, 6, 6]
    assert values_in(out, "step") == [1, 2, 3, 4, 5, 6]
    assert [path.name for pattern in ("*.pt*", ".*.tmp") for path in out.glob(pattern)] == ["latest.pt"]
    assert load_checkpoint(out / "latest.pt")["step"] == 2
    run_main(out, *options, "--steps", "6")
    assert is_same(*(load_checkpoint(folder / "latest.pt")["model"] for folder in (out, tmp_path / "calm")))


def test_a_disk_that_hangs_ends_the_run(
    run_main: Trainer, squares: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(res3d_video.pipeline.reader, "read_into", lambda *place, size: goes_on.wait() and False)
    result = run_main(tmp_path / "run", *NARROW, "--steps", "1", "--stall-timeout", "3", exit_code=None)
    goes_on.set()
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"error: no batch for 3 s: reading {squares.tars[0]} for step 0, row ")


def test_neither_a_clock_that_goes_backwards_nor_finishing_again_changes_the_log(
    run_main: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(now_s)))
    for steps in ("2", "4", "4"):
        run_main(tmp_path, *NARROW, "--steps", steps, "--resume", "auto")
    assert values_in(tmp_path, "step") == [1, 2, 3, 4]
    assert min(values_in(tmp_path, "clips_per_s")) > 0
    assert values_in(tmp_path, "step", event="final").count(4) == 1


@pytest.mark.slow
def test_a_rank_that_hangs_is_given_up_by_the_others(squares: ShardIndex, tmp_path: Path) -> None:
    command = command_line(
        squares, tmp_path, *NARROW, "--steps", "100000", "--save-every", "5", "--collective-timeout", "5"
    )
    ranks = [Warm(command, environment=os.environ | place) for place in places(2)]
    try:
        wait_until((tmp_path / "latest.pt").is_file, "a checkpoint", patience_s=120)
        ranks[1].send_signal(signal.SIGSTOP)
        _, said = ranks[0].communicate(timeout=120)
        assert "another process has ended, or did not come within 5 s (" in said
    finally:
        for rank in ranks:
            rank.kill()


def agent(data: Path, out: Path, *options: str) -> list[str]:
    """One machine's torchrun of two."""
    rendezvous = "--nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-id test --max-restarts 3 --rdzv-endpoint "
    rendezvous += f"localhost:{places(2)[0]['MASTER_PORT']} --rdzv-conf keep_alive_interval=1,keep_alive_max_attempt=3"
    command = ["-m", "torch.distributed.run", *rendezvous.split(), "train/main.py"]
    return [*command, "--data", str(data), "--out", str(out), *SMALL, *options]


@pytest.mark.long
def test_two_machines_compute_what_one_does_also_when_one_is_lost_and_comes_back(
    squares: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*NARROW, "--steps", "120", "--save-every", "5", "--resume", "auto", "--collective-timeout", "60"]
    done = run_program(command_line(squares, tmp_path / "one", *options, processes=2))
    assert done.returncode == 0, done.stderr
    out, log = tmp_path / "two", tmp_path / "log.txt"
    command = agent(squares.data_dir, out, *options)
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    with started(command, log) as first:
        # it is the host
        wait_until(lambda: bool(first.net_connections()) or first.poll() is not None, "the rendezvous")
        with started(command, log) as second:
            wait_until((out / "latest.pt").is_file, "a checkpoint", patience_s=120)
            for process in [*second.children(recursive=True), second]:  # the machine, not just torchrun
                process.kill()
        with started(command, log) as third:
            assert [first.wait(240), third.wait(240)] == [0, 0], log.read_text()
    assert "going on from" in log.read_text()
    assert is_same(load_checkpoint(out / "latest.pt"), load_checkpoint(tmp_path / "one" / "latest.pt"))
    assert results_in(out) == results_in(tmp_path / "one")


@pytest.mark.long
def test_a_few_kills_lose_nothing() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--kills", "4", "--steps", "40", "--videos", "8"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("4 kills (")
    assert ", 0 losses, " in done.stdout.splitlines()[-1]


def test_without_dali_a_run_is_the_same_and_says_what_decodes(run_main: Trainer, tmp_path: Path) -> None:
    for engine, said in (("dali", "decoding by DALI"), ("simple", "decoding by libjpeg-turbo and FFmpeg")):
        assert said in run_main(tmp_path / engine, *NARROW, "--steps", "2", "--engine", engine).output
    assert values_in(tmp_path / "simple", "loss") == values_in(tmp_path / "dali", "loss")
