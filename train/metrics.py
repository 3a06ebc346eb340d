"""The record of a run: metrics.jsonl, TensorBoard, and the loss of each step as all ranks agree on it."""

import contextlib
import hashlib
import importlib
import json
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.files import write_atomically
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import Batch
from res3d_video.pipeline.typed_json import Count, Real, Text
from res3d_video.train.rank_times import Reading
from res3d_video.train.ranks import Ranks

MAX_NAMED_SAMPLES = 20  # of a batch with a bad loss, so that the error stays one line
MAX_DAMAGED = 1000  # that are named; tools/check_shards.py names all


class DamagedSample(TypedDict):
    tar: Text
    reason: Text


Damaged = dict[Text, DamagedSample]  # by the sample's key


class MetricsLog:
    """Writes metrics.jsonl and TensorBoard files of a run folder, on rank 0.

    A line is {"event": "train" | "eval" | "final" | "damaged" | "not_saved", "step": updates done, …}. Lines beyond
    step `start` are removed first, so a resumed run has every step once. Lines that cannot be written are retried.

    Args:
        total: Steps of the run.
        say: Called with a line when writing begins to fail, works again, and when TensorBoard is given up.
        tracker: "wandb" or "trackio", which receives the numbers and `config`, too.

    Raises:
        UserError: The tracker is not installed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        start: int,
        total: int | None = None,
        say: Callable[[str], None] = lambda line: None,
        tracker: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes half a second, not needed to read logs

        self.path, self.say = folder / "metrics.jsonl", say
        self.tracker = open_tracker(tracker, folder, config or {}) if tracker else None
        if self.path.is_file():
            keep_lines_until(self.path, step=start, total=total)
        self.file = self.path.open("ab", buffering=0)  # a line is on disk when its step is done
        self.waiting: list[bytes] = []
        self.board: SummaryWriter | None = None
        with self._without_board():
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1 if start else None)

    def write(self, event: str, *, step: int, **values: Any) -> None:
        """Write one line, and each number to its TensorBoard curve. NaN becomes null, as JSON has no NaN."""
        finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
        self._write_line((json.dumps({"event": event, "step": step, **finite}) + "\n").encode())
        numbers = {f"{event}/{name}": value for name, value in finite.items() if isinstance(value, int | float)}
        with self._without_board():
            for name, value in numbers.items():
                if self.board is not None:
                    self.board.add_scalar(name, value, step)
        if self.tracker is not None and numbers:
            self.tracker.log(numbers, step=step)

    def close(self) -> None:
        """Close the files; says how many lines could not be written."""
        if self.waiting:
            self._write_line(b"")
        if self.waiting:
            self.say(f"{self.path}: the last {len(self.waiting)} lines are lost")
        self.file.close()
        with self._without_board():
            if self.board is not None:
                self.board.close()
        if self.tracker is not None:
            with contextlib.redirect_stdout(sys.stderr):  # standard output is for the result of --json
                self.tracker.finish()

    def _write_line(self, line: bytes) -> None:
        """Append the waiting lines and this one: all of them, or none if there is no room."""
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
        """Go on without TensorBoard if it cannot write."""
        try:
            yield
        except OSError as error:
            self.board = None
            self.say(f"{self.path.parent / 'tensorboard'}: cannot be written ({error.strerror}); given up")


def open_tracker(name: str, folder: Path, config: dict[str, Any]) -> Any:
    """A run of Weights & Biases ("wandb") or Trackio, which have the same API; a resumed run continues it.

    Both read their own environment variables: with WANDB_MODE=offline everything stays in the run's folder.

    Raises:
        UserError: The package is not installed.
    """
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(f"--log: {name} is not installed; pip install {name}") from None
    own = {}
    if name == "wandb":
        own = {"dir": str(folder), "id": hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]}
    with contextlib.redirect_stdout(sys.stderr):
        module.init(project="res3d-video", name=folder.name, config=config, resume="allow", **own)
    return module


def keep_lines_until(path: Path, *, step: int, total: int | None = None) -> None:
    """Remove the lines of a metrics.jsonl beyond `step`, and a truncated last line; atomically.

    Args:
        total: Steps of the run; its "final" line is removed too, as it will be written again.
    """
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            about = json.loads(line)
            if about["step"] <= step and (about.get("event"), about["step"]) != ("final", total):
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    write_atomically(path, "".join(kept).encode())


@dataclass
class StepOutcome:
    """The outcome of a step over all ranks; the last three fields are this rank's."""

    step: int  # updates done with it, from 1
    loss: float  # weighted mean over the global batch
    stop: bool  # whether any rank was asked to stop
    num_replaced: int  # clips that took the place of damaged ones
    num_damaged: int  # names in `damaged` of all ranks
    num_frames: int  # in the clips
    num_frames_decoded: int  # for them
    readings: np.ndarray | None  # float64 [R, 7], a `Reading` of each rank; None between lines of the log
    samples: np.ndarray  # int64 [N], rows of the index
    losses: Tensor  # float32 [N], of each clip
    damaged: Damaged  # not named before


def check_finite(outcome: StepOutcome, index: ShardIndex, ranks: Ranks) -> None:
    """Check that a step's loss is finite; a collective if it is not.

    Raises:
        UserError: It is not finite; names the samples of all ranks whose own loss is not.
    """
    if math.isfinite(outcome.loss):
        return
    bad = outcome.samples[~outcome.losses.isfinite().cpu().numpy()]  # sync, once
    keys = [key for part in ranks.gather([index.key(row) for row in bad]) for key in part]  # collective, once
    more = f" and {len(keys) - MAX_NAMED_SAMPLES} more" if len(keys) > MAX_NAMED_SAMPLES else ""
    names = ", ".join(keys[:MAX_NAMED_SAMPLES]) + more
    raise UserError(
        f"step {outcome.step}: the loss is {outcome.loss} for samples {names}; lower --lr, or look at these"
    )


def name_damaged(index: ShardIndex, damaged: dict[int, str]) -> Damaged:
    """Key and tar of damaged samples, given as row of the index -> why."""
    return {index.key(row): {"tar": index.tars[int(index.tar[row])], "reason": why} for row, why in damaged.items()}


@dataclass
class Tally:
    """Totals for the next line of the log, and the damage since the run began; equal on all ranks.

    It is part of checkpoints, so a resumed run writes the same lines as one that was not stopped.
    """

    losses: list[Real] = field(default_factory=list)  # this and the next two: of the steps since the last line
    num_frames: Count = 0
    num_frames_decoded: Count = 0
    num_replaced: Count = 0  # this and the next: since the run began
    damaged: Damaged = field(default_factory=dict)  # at most MAX_DAMAGED

    def add(self, outcome: StepOutcome) -> None:
        """Count a step."""
        self.losses.append(outcome.loss)
        self.num_frames += outcome.num_frames
        self.num_frames_decoded += outcome.num_frames_decoded
        self.num_replaced += outcome.num_replaced

    def take(self) -> dict[str, float]:
        """The numbers for a line of the log; resets those since the last line."""
        loss, waste = sum(self.losses) / len(self.losses), self.num_frames_decoded / self.num_frames
        self.losses, self.num_frames, self.num_frames_decoded = [], 0, 0
        return {"loss": loss, "num_replaced": self.num_replaced, "decode_waste": waste}

    def name(self, parts: list[Damaged]) -> Damaged:
        """Add the damaged samples of all ranks; returns the new ones."""
        new = {key: about for part in parts for key, about in part.items() if key not in self.damaged}
        self.damaged |= new
        return new

    def unnamed(self, index: ShardIndex, damaged: dict[int, str]) -> Damaged:
        """The damaged samples of a batch that are not named yet."""
        if not damaged or len(self.damaged) >= MAX_DAMAGED:
            return {}
        return {key: about for key, about in name_damaged(index, damaged).items() if key not in self.damaged}


class OutcomeQueue:
    """Sums a step's numbers over ranks in one small all_reduce, without draining a GPU's queue.

    When a line of the log is due, an all_gather replaces it, which also brings a `Reading` of each rank: no collective
    and no sync is added, and the numbers arrive with their step.

    On a CPU `push` returns the step's own outcome. On a GPU the numbers are copied asynchronously and returned by the
    next `push`, when the GPU is busy with the next step; `drain` waits for them.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.waiting: deque[tuple[int, Tensor, torch.cuda.Event | None, np.ndarray, Tensor, Damaged]] = deque()

    def push(
        self,
        step: int,
        batch: Batch,
        *,
        loss: Tensor,
        losses: Tensor,
        stop: bool,
        damaged: Damaged | None = None,
        reading: Reading | None = None,
    ) -> list[StepOutcome]:
        """The outcomes that are known now; all ranks get the same at the same call. `loss` is as in `StepLoss`.

        Args:
            reading: Of this rank; all ranks must give one at the same steps.
        """
        damaged, work = damaged or {}, batch.work
        own = torch.tensor(
            [stop, batch.num_replaced, len(damaged), work.num_frames, work.num_frames_decoded, *(reading or ())],
            dtype=torch.float32,
        )
        share = loss.detach().float().reshape(1) / self.ranks.world_size
        if share.device.type == "cuda":
            own = own.pin_memory().to(share.device, non_blocking=True)  # copy
        found = torch.cat([share, own])
        # collective, 24 bytes, or 52 of each rank: [6], or [R, 13]
        numbers = self.ranks.sum(found) if reading is None else self.ranks.rows(found)
        arrived = None
        if numbers.device.type == "cuda":
            pinned = torch.empty(numbers.shape, pin_memory=True)
            pinned.copy_(numbers, non_blocking=True)  # copy to the host, read one step later
            numbers, arrived = pinned, torch.cuda.Event(blocking=True)  # a host that waits sleeps
            arrived.record()
        self.waiting.append((step, numbers, arrived, batch.samples, losses.detach(), damaged))
        return self._take(len(self.waiting) - (arrived is not None))

    def drain(self) -> list[StepOutcome]:
        """The outcomes that were not returned yet; a sync on a GPU."""
        return self._take(len(self.waiting))

    def _take(self, count: int) -> list[StepOutcome]:
        outcomes = []
        for _ in range(count):
            step, numbers, arrived, samples, losses, damaged = self.waiting.popleft()
            if arrived is not None:
                arrived.synchronize()  # sync with a forward pass that is one step behind
            readings, rows = None, numbers.double().numpy()
            if rows.ndim == 2:
                rows, readings = rows[:, : -len(Reading._fields)].sum(axis=0), rows[:, -len(Reading._fields) :]
            loss, stop, *sums = rows.tolist()
            num_replaced, num_damaged, num_frames, num_decoded = map(round, sums)
            counts = (num_replaced, num_damaged, num_frames, num_decoded)
            outcomes.append(StepOutcome(step, loss, stop > 0, *counts, readings, samples, losses, damaged))
        return outcomes
