"""A run's folder while a trainer is at work there: nobody else's, and able to do without what cannot be written."""

import contextlib
import errno
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console

from res3d_video import pipeline
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import LoaderSettings
from res3d_video.pipeline.shard_writer import write_atomically
from res3d_video.train.checkpoint import data_identity, save_checkpoint
from res3d_video.train.config import LOCK, TrainConfig, to_dict
from res3d_video.train.evaluation.video_level import VideoScores
from res3d_video.train.metrics import Damaged, MetricsLog, Tally
from res3d_video.train.progress import console
from res3d_video.train.ranks import Ranks
from res3d_video.train.step import StepOptions

Say = Callable[[str], None]


@dataclass(frozen=True)
class RunContext:
    """Where and how a run happens; nothing here decides what it computes.

    Attributes:
        say: Prints a line, on rank 0 only; `note` one that --quiet leaves out.
        to_stderr: Progress is shown on standard error, for standard output is taken.
        tracker: "wandb" or "trackio" gets the numbers too.
    """

    ranks: Ranks
    out: Path
    loader: LoaderSettings
    step: StepOptions
    say: Say
    quiet: bool = False
    to_stderr: bool = False
    tracker: str | None = None

    def note(self, line: str) -> None:
        if not self.quiet:
            self.say(line)

    def console(self) -> Console | None:
        """Where progress is drawn; None: this rank shows none."""
        return console(stderr=self.to_stderr) if self.ranks.is_main and not self.quiet else None


NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # said where there are no locks, as on some network disks
LEFT_OVERS = (".*.pt.tmp", ".metrics.jsonl.*.tmp", ".config.json.*.tmp")
PATIENCE_S = 10.0  # for a trainer that is about to end, as after a kill


@contextlib.contextmanager
def only_trainer(folder: Path, ranks: Ranks, *, say: Say) -> Iterator[None]:
    """Make the folder, if need be, and keep other trainers out of it; remove what a killed one left half-written.

    A collective: rank 0 has the lock when the block begins, and nobody writes what the ranks read then. The lock ends
    with the process, however that ends.

    Args:
        say: Told in a line where there are no locks.

    Raises:
        UserError: Another trainer is at work there, or nothing can be written.
    """
    with contextlib.ExitStack() as stack:
        if ranks.is_main:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for path in chain.from_iterable(map(folder.glob, LEFT_OVERS)):
                    path.unlink()
                stack.enter_context(FileLock(folder / LOCK, timeout=PATIENCE_S))
            except Timeout:
                raise UserError(
                    f"--out: another trainer is at work in {folder}; wait for it, or choose another"
                ) from None
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise UserError(
                        f"--out: nothing can be written to {folder} ({error.strerror}); make room, or choose another"
                    ) from None
                say(f"{folder}: this file system has no locks; see to it that no other trainer writes there")
        ranks.gather(None)  # collective, a barrier
        yield


def check_agreement(folder: Path, ranks: Ranks, state: dict[str, Any] | None, index: ShardIndex) -> None:
    """Raises UserError where ranks would go on from different steps, or read different shards; a collective."""
    own = state["step"] if state is not None else 0, index.fingerprint
    steps, fingerprints = zip(*ranks.gather(own), strict=True)  # collective
    if len(set(steps)) > 1:
        raise UserError(
            f"--out: processes found checkpoints of different steps in {folder} ({', '.join(map(str, steps))}); "
            "it must be one folder, the same for all machines"
        )
    if other := next((rank for rank, found in enumerate(fingerprints) if found != fingerprints[0]), 0):
        raise UserError(
            f"--data: the shards of rank {other} ({fingerprints[other][:8]}…) are not those of rank 0 "
            f"({fingerprints[0][:8]}…); copy the same dataset to all machines, or give all the same URL"
        )


def with_the_same_groups(config: TrainConfig, ranks: Ranks) -> TrainConfig:
    """The configuration with the most groups of any rank; a collective.

    By default shards behind a URL have groups and a folder has none, and one machine may have a copy in a folder.
    """
    return replace(config, canonical_groups=max(ranks.gather(config.canonical_groups)))  # collective


def log_fetched(
    log: MetricsLog | None, index: ShardIndex, ranks: Ranks, hosts: Sequence[str], *, step: int, epoch: int
) -> None:
    """Write down how many bytes each machine, by name of each rank's, has fetched since it began; a collective."""
    found: dict[str, int] = {}
    own = 0 if index.store is None else index.store.bytes_fetched
    for host, num_bytes in zip(hosts, ranks.gather(own), strict=True):  # collective
        found[host] = found.get(host, 0) + num_bytes
    if log is not None:
        machines = [{"host": host, "bytes_fetched": num_bytes} for host, num_bytes in found.items()]
        log.write("fetched", step=step, epoch=epoch, machines=machines)


class CheckpointFiles:
    """The checkpoints that a run writes. One that cannot be written costs a line; what is on the disk stays."""

    def __init__(self, folder: Path, *, say: Say, log: MetricsLog) -> None:
        self.folder, self.say, self.log = folder, say, log
        self._missing: dict[str, str] = {}  # name: what is wrong

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint; latest.pt leaves the one before it as previous.pt."""
        path, step = self.folder / name, state["step"]
        try:
            save_checkpoint(path, state, former=path.with_name("previous.pt") if name == "latest.pt" else None)
        except OSError as error:
            reason = error.strerror or str(error)
            self._missing[name] = f"{name} of step {step} could not be written ({reason})"
            self.say(f"NOT SAVED: {path} of step {step} ({reason}); an older one stays, training goes on")
            self.log.write("not_saved", step=step, file=name, reason=reason)
        else:
            self._missing.pop(name, None)

    def check(self) -> None:
        """At the end of a run: raises UserError where latest.pt or best.pt is not the last that was to be written."""
        for name in ("latest.pt", "best.pt"):
            if name in self._missing:
                raise UserError(f"{self.folder}: {self._missing[name]}; make room and go on with --resume auto")


MOST_NAMED = 5  # damaged samples in a line


def write_config(context: RunContext, config: TrainConfig, *, preset: str, index: ShardIndex) -> None:
    """config.json: what the run was asked to do, how, and with what."""
    device = context.ranks.device
    about = {
        "preset": preset,
        "config": to_dict(config),
        "data": data_identity(index) | {"classes": index.classes, "folder": index.place},
        "world_size": context.ranks.world_size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "loader": asdict(context.loader),
        "step": asdict(context.step),
        "versions": {
            "res3d-video": pipeline.__version__,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "python": platform.python_version(),
        },
    }
    write_atomically(context.out / "config.json", (json.dumps(about, indent=2) + "\n").encode())


def accuracy_lines(scores: VideoScores) -> list[str]:
    """Accuracies with the chance level beside them, aligned."""
    views, num_videos = scores.clips_per_video, len(scores.videos)
    lines = [
        f"clip@1      {scores.clip_at_1:6.1%}   one centre clip; chance is {scores.chance:.1%}",
        f"video@1     {scores.video_at_1:6.1%}   {views} clips each of {num_videos} videos",
    ]
    if scores.video_at_5 is not None:
        lines.append(f"video@5     {scores.video_at_5:6.1%}")
    if scores.mean_ap is not None:
        lines.append(f"mAP         {scores.mean_ap:6.1%}   mean of the classes' average precisions")
    if scores.unreadable:
        lines.append(f"unreadable  {len(scores.unreadable)} samples, left out: {named(scores.unreadable)}")
    return lines


def named(damaged: Damaged) -> str:
    """Some damaged samples, for a line.

    >>> named({"000012": {"tar": "a.tar", "reason": "it does not decode"}})
    '000012 of a.tar (it does not decode); tools/check_shards.py finds all damage'
    """
    some = [f"{key} of {about['tar']} ({about['reason']})" for key, about in list(damaged.items())[:MOST_NAMED]]
    more = [f"{len(damaged) - MOST_NAMED} more"] if len(damaged) > MOST_NAMED else []
    return f"{', '.join(some + more)}; tools/check_shards.py finds all damage"


def last_lines(out: Path, scores: VideoScores | None, *, step: int, steps: int, tally: Tally) -> list[str]:
    """How a run ended and where its files are; `scores` is None when a signal stopped it."""
    stopped = f"stopped by a signal at step {step} of {steps} and saved; the same command goes on from there"
    replaced = f"damaged     {len(tally.damaged)} samples, {tally.num_replaced} clips replaced: {named(tally.damaged)}"
    return [
        *(accuracy_lines(scores) if scores is not None else [stopped]),
        *([replaced] if tally.num_replaced else []),
        f"checkpoint  {out / 'latest.pt'}",
        f"logs        {out / 'metrics.jsonl'}, tensorboard --logdir {out / 'tensorboard'}",
    ]


def result(out: Path, scores: VideoScores | None, *, step: int, best_accuracy: float, tally: Tally) -> dict[str, Any]:
    """What --json prints."""
    return {
        "out": str(out),
        "checkpoint": str(out / "latest.pt"),
        "step": step,
        "finished": scores is not None,
        "best_clip_at_1": best_accuracy if best_accuracy >= 0 else None,
        "num_replaced": tally.num_replaced,
        "damaged": [{"key": key, **about} for key, about in tally.damaged.items()],
        **(scores.summary() if scores is not None else {}),
    }
