"""Two ranks trained under fire, and compared with those that were not."""

import json
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from res3d_video.train.checkpoint import CheckpointError, load_checkpoint, load_latest
from tests.chaos.ledger import PATIENCE_S, Ledger, StuckError, started, wait_until

TARGETS = ("rank 0", "rank 0", "rank 1", "rank 1", "both ranks", "torchrun")
MODEL = "--preset tiny --model res3d10 --width 4 --num-frames 4 --crop-size 32 --resize 32 --batch-size 4"
OPTIONS = f"{MODEL} --eval-every 20 --eval-clips 2 --save-every 5 --log-every 3 --num-threads 1 --device cpu"
TORCHRUN = "-m torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 1000"


def train_words(data: Path, out: Path, *, steps: int) -> list[str]:
    command = f"{TORCHRUN} train/main.py {OPTIONS} --collective-timeout 60 --steps {steps}".split()
    return [*command, "--data", str(data), "--out", str(out)]


def train(data: Path, out: Path, log: Path, *, steps: int) -> None:
    """Train without disturbance."""
    with started(train_words(data, out, steps=steps), log) as process:
        if process.wait(PATIENCE_S):
            raise StuckError(f"training failed; see {log}")


def ranks_of(torchrun: psutil.Process) -> dict[str, psutil.Process]:
    """The trainers of a torchrun by their rank."""
    found = {}
    try:
        for child in torchrun.children():
            rank = child.environ().get("RANK")
            if rank is not None and child.status() != psutil.STATUS_ZOMBIE:
                found[rank] = child
    except psutil.Error:  # one has just ended
        return {}
    return found


def train_under_fire(data: Path, out: Path, log: Path, *, steps: int, ledger: Ledger, drawn: random.Random) -> None:
    """Train to the end, with ranks and torchrun killed at any moment until the ledger is full."""
    best_step = 0
    while True:
        with started(train_words(data, out, steps=steps), log) as torchrun:
            while not ledger.is_full:
                wait_to_kill(torchrun, out, drawn=drawn)
                what, ranks = drawn.choice(TARGETS), ranks_of(torchrun)
                if torchrun.poll() is not None or len(ranks) < 2:
                    break
                victims = {"rank 0": [ranks["0"]], "rank 1": [ranks["1"]], "torchrun": [torchrun]}
                with suppress(psutil.NoSuchProcess):  # it has just ended
                    ledger.kill(what, *victims.get(what, list(ranks.values())))
                best_step = check_checkpoints(out, best_step, ledger=ledger)
                if what == "torchrun":
                    for rank in ranks.values():
                        rank.wait(PATIENCE_S)  # they notice, and do not go on beside their successors
                    break
            code = torchrun.wait(PATIENCE_S)
        if code == 0:
            return
        if code != -signal.SIGKILL:
            ledger.lose(f"{out.name}: torchrun ended with exit code {code}; see {log}")
            return


def wait_to_kill(torchrun: psutil.Process, out: Path, *, drawn: random.Random) -> None:
    """Wait for a random moment: of starting, or around one of the next checkpoints."""

    def is_over() -> bool:
        return torchrun.poll() is not None

    wait_until(lambda: is_over() or len(ranks_of(torchrun)) == 2, "two ranks")
    if drawn.random() < 0.2:
        time.sleep(drawn.uniform(0, 5))
        return
    for _ in range(drawn.randint(1, 4)):
        before = written_at(out)
        wait_until(lambda before=before: is_over() or written_at(out) != before, "a checkpoint")  # type: ignore[misc]
    time.sleep(drawn.uniform(0, 0.2))


def written_at(out: Path) -> int:
    try:
        return (out / "latest.pt").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def check_checkpoints(out: Path, best_step: int, *, ledger: Ledger) -> int:
    """After a kill: whatever is there can be read, and is no older than what was there before."""
    try:
        found = load_latest(out, say=ledger.lose)
    except CheckpointError as error:
        ledger.lose(str(error))
        return best_step
    step = found[1]["step"] if found else 0
    if step < best_step:
        ledger.lose(f"{out}: at step {step}, but there was one of step {best_step}")
    return max(step, best_step)


def compare_runs(found: Path, expected: Path, *, ledger: Ledger) -> None:
    """The same checkpoints, and the same lines of metrics but for times."""
    for name in ("latest.pt", "best.pt", "previous.pt"):
        ours, theirs = load_checkpoint(found / name), load_checkpoint(expected / name)
        if not is_same(ours, theirs):
            ledger.lose(f"{found / name}: of step {ours['step']}, not as {expected / name} of step {theirs['step']}")
    if results_in(found) != results_in(expected):
        ledger.lose(f"{found / 'metrics.jsonl'}: not as {expected / 'metrics.jsonl'}")


def is_same(a: object, b: object) -> bool:
    """Whether two states are equal, bit for bit.

    >>> w = torch.tensor([1.0])
    >>> is_same({"w": [w, 2]}, {"w": [w.clone(), 2]}), is_same({"w": [w]}, {"w": [w + 1e-7]})
    (True, False)
    """
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(is_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(is_same, a, b))
    return type(a) is type(b) and a == b


def results_in(run: Path) -> list[dict]:
    """The lines of metrics.jsonl, without what a clock measured."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = {"clips_per_s", "data_wait_s", "data_wait", "num_cache_hits", "num_cache_misses", "slowest", "ranks"}
    lines = [line for line in lines if line["event"] != "straggler"]
    return [{name: value for name, value in line.items() if name not in times} for line in lines]
