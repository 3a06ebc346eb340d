"""The record of a run: metrics.jsonl, TensorBoard, and the loss of each step as all ranks agree on it."""

import contextlib
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from pipeline.errors import UserError
from train.ranks import Ranks

MAX_NAMED_SAMPLES = 20  # of a batch with a bad loss, so that the error stays one line


class TrainingError(UserError):
    """Training cannot go on; the message is one line."""


class MetricsLog:
    """metrics.jsonl and TensorBoard of one run folder, written by rank 0.

    A line is {"event": "train" | "eval" | "final" | "not_saved", "step": updates done, …}. Begun at step `start`, the
    log forgets lines beyond it, so a resumed run has every step once. Lines that cannot be written wait for the next
    one that can.

    Args:
        total: Steps of the run.
        say: Told in a line when lines begin to wait, when they are there, and when TensorBoard is given up.
    """

    def __init__(
        self, folder: Path, *, start: int, total: int | None = None, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self.path, self.say = folder / "metrics.jsonl", say
        keep_lines_until(self.path, step=start, total=total)
        self.file = self.path.open("ab", buffering=0)  # a line is on disk when its step is done
        self.waiting: list[bytes] = []
        self.board: SummaryWriter | None = None
        with self._without_board():
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1 if start else None)

    def write(self, event: str, *, step: int, **values: Any) -> None:
        """One line, and one TensorBoard curve a number. JSON has no NaN: it becomes null."""
        finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
        self._write_line((json.dumps({"event": event, "step": step, **finite}) + "\n").encode())
        numbers = {name: value for name, value in finite.items() if isinstance(value, int | float)}
        with self._without_board():
            for name, value in numbers.items():
                if self.board is not None:
                    self.board.add_scalar(f"{event}/{name}", value, step)

    def close(self) -> None:
        """Close the files; lines that still wait are lost, and that is said."""
        if self.waiting:
            self._write_line(b"")
        if self.waiting:
            self.say(f"{self.path}: the last {len(self.waiting)} lines are lost")
        self.file.close()
        with self._without_board():
            if self.board is not None:
                self.board.close()

    def _write_line(self, line: bytes) -> None:
        """Append a line and those that wait, all of them or, where there is no room, none."""
        rest = b"".join(self.waiting) + line
        end = os.fstat(self.file.fileno()).st_size
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            os.ftruncate(self.file.fileno(), end)  # no part of a line
            if not self.waiting:
                self.say(f"{self.path}: cannot be written ({error.strerror}); its lines wait")
            self.waiting += [line] if line else []
            return
        if self.waiting:
            self.say(f"{self.path}: can be written again, and {len(self.waiting)} lines that waited are there")
        self.waiting = []

    @contextlib.contextmanager
    def _without_board(self) -> Iterator[None]:
        """Go on without TensorBoard when its own thread could not write."""
        try:
            yield
        except OSError as error:
            self.board = None
            self.say(f"{self.path.parent / 'tensorboard'}: cannot be written ({error.strerror}); given up")


def keep_lines_until(path: Path, *, step: int, total: int | None = None) -> None:
    """Drop the lines of a metrics.jsonl beyond `step`, and a last line that was cut off; atomically.

    Args:
        total: Steps of the run, whose "final" line is dropped too, for it comes again.
    """
    if not path.is_file():
        return
    lines, kept = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True), []
    for line in lines:
        try:
            about = json.loads(line)
            if about["step"] <= step and (about.get("event"), about["step"]) != ("final", total):
                kept.append(line.rstrip("\n") + "\n")
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    if kept == lines:
        return
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@dataclass
class StepOutcome:
    """What all ranks know of a finished step.

    Attributes:
        step: Updates done with it, from 1.
        loss: Weighted mean over the global batch.
        stop: Whether any rank was asked to stop.
        samples, losses: This rank's rows of the index and their losses, [N]; for naming bad ones.
    """

    step: int
    loss: float
    stop: bool
    samples: np.ndarray
    losses: Tensor


def bad_loss_message(outcome: StepOutcome, *, keys: list[str]) -> str:
    """One line about a loss that is not finite; `keys` are the samples whose own loss is not."""
    more = f" and {len(keys) - MAX_NAMED_SAMPLES} more" if len(keys) > MAX_NAMED_SAMPLES else ""
    names = ", ".join(keys[:MAX_NAMED_SAMPLES]) + more
    return f"step {outcome.step}: the loss is {outcome.loss} for samples {names}; lower --lr, or look at these"


class OutcomeQueue:
    """Sums loss and stop request over ranks in one small all_reduce a step; a GPU's queue never drains.

    On a CPU `push` returns the step's own outcome. On a GPU the numbers are copied asynchronously and come
    out at the next `push`, when the GPU has the next step to work on; `drain` waits for them.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.waiting: deque[tuple[int, Tensor, torch.cuda.Event | None, np.ndarray, Tensor]] = deque()

    def push(self, step: int, *, loss: Tensor, stop: bool, samples: np.ndarray, losses: Tensor) -> list[StepOutcome]:
        """Outcomes that became known; all ranks get the same at the same call.

        Args:
            loss: This rank's share, scaled so that the mean over ranks is the global loss.
        """
        share = loss.detach().float() / self.ranks.world_size
        numbers = self.ranks.sum(torch.stack([share, torch.full_like(share, float(stop))]))  # collective, 8 bytes
        if numbers.device.type == "cuda":
            pinned = torch.empty(2, pin_memory=True)
            pinned.copy_(numbers, non_blocking=True)  # copy to the host, read one step later
            arrived = torch.cuda.Event()
            arrived.record()
            self.waiting.append((step, pinned, arrived, samples, losses.detach()))
            return self._take(len(self.waiting) - 1)
        self.waiting.append((step, numbers, None, samples, losses.detach()))
        return self._take(1)

    def drain(self) -> list[StepOutcome]:
        """The outcomes not returned yet; on a GPU a sync."""
        return self._take(len(self.waiting))

    def _take(self, count: int) -> list[StepOutcome]:
        outcomes = []
        for _ in range(count):
            step, numbers, arrived, samples, losses = self.waiting.popleft()
            if arrived is not None:
                arrived.synchronize()  # sync with a forward pass that is one step behind
            loss, stop = numbers.tolist()
            outcomes.append(StepOutcome(step, loss, stop > 0, samples, losses))
        return outcomes


class Throughput:
    """Clips a second and the share of time spent waiting for them, between one reading and the next."""

    def __init__(self) -> None:
        self.begun_s, self.waited_s = time.monotonic(), 0.0
        self.paused_s = 0.0

    def read(self, num_clips: int, *, data_wait_s: float) -> dict[str, float]:
        """Numbers since the last reading; then begins anew.

        Args:
            num_clips: Trained on since then, over all ranks.
            data_wait_s: The loader's, since its start.
        """
        now_s = time.monotonic()
        seconds = max(now_s - self.begun_s - self.paused_s, 1e-9)
        waited_s = data_wait_s - self.waited_s
        self.begun_s, self.waited_s, self.paused_s = now_s, data_wait_s, 0.0
        return {"clips_per_s": num_clips / seconds, "data_wait_s": waited_s, "data_wait": waited_s / seconds}

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave out the time of the block, which is not training."""
        begun_s = time.monotonic()
        yield
        self.paused_s += time.monotonic() - begun_s
