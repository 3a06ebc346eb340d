"""The folder of a run: locked by its trainer, which goes on if a file cannot be written."""

import contextlib
import errno
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
from res3d_video.train.checkpoint import data_identity, save_checkpoint
from res3d_video.train.config import LOCK, TrainConfig, to_dict
from res3d_video.train.evaluation.video_level import VideoScores
from res3d_video.train.metrics import Damaged, MetricsLog, Tally
from res3d_video.train.progress import console
from res3d_video.train.ranks import Ranks
from res3d_video.train.step import StepOptions
from res3d_video.train.terminal import save_json

Say = Callable[[str], None]


@dataclass(frozen=True)
class RunContext:
    """Where and how a run executes; nothing here changes what it computes.

    Attributes:
        say: Prints a line, on rank 0 only; `note` prints one that --quiet suppresses.
        to_stderr: Show progress on standard error, as standard output is for the result.
        tracker: "wandb" or "trackio" receives the numbers, too.
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
        """The console for the progress bar; None if this rank shows none."""
        return console(stderr=self.to_stderr) if self.ranks.is_main and not self.quiet else None


NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # of file systems without locks, as some network disks
LEFT_OVERS = (".*.pt.tmp", ".metrics.jsonl.*.tmp", ".config.json.*.tmp")
LOCK_TIMEOUT_S = 10.0  # a killed trainer may still be ending


@contextlib.contextmanager
def only_trainer(folder: Path, ranks: Ranks, *, say: Say) -> Iterator[None]:
    """Create the folder if needed, lock it against other trainers, and remove temporary files of killed ones.

    A collective: rank 0 holds the lock when the block begins, so the files that ranks read there do not change. The
    lock ends with the process, however it ends.

    Args:
        say: Called with a line if the file system has no locks.

    Raises:
        UserError: Another trainer is running there, or nothing can be written.
    """
    with contextlib.ExitStack() as stack:
        if ranks.is_main:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for path in chain.from_iterable(map(folder.glob, LEFT_OVERS)):
                    path.unlink()
                stack.enter_context(FileLock(folder / LOCK, timeout=LOCK_TIMEOUT_S))
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
    """Raise UserError if ranks would resume from different steps or read different shards; a collective."""
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
    """The configuration with the largest number of groups of all ranks; a collective.

    By default shards behind a URL have groups and those in a folder have none, and machines may differ in which they
    have.
    """
    return replace(config, canonical_groups=max(ranks.gather(config.canonical_groups)))  # collective


def log_fetched(
    log: MetricsLog | None, index: ShardIndex, ranks: Ranks, hosts: Sequence[str], *, step: int, epoch: int
) -> None:
    """Log how many bytes each machine has downloaded since the process began; a collective.

    Args:
        hosts: Name of each rank's machine.
    """
    found: dict[str, int] = {}
    own = 0 if index.store is None else index.store.bytes_fetched
    for host, num_bytes in zip(hosts, ranks.gather(own), strict=True):  # collective
        found[host] = found.get(host, 0) + num_bytes
    if log is not None:
        machines = [{"host": host, "bytes_fetched": num_bytes} for host, num_bytes in found.items()]
        log.write("fetched", step=step, epoch=epoch, machines=machines)


class CheckpointFiles:
    """Writes the checkpoints of a run. If one cannot be written, a line says so, and older files stay."""

    def __init__(self, folder: Path, *, say: Say, log: MetricsLog) -> None:
        self.folder, self.say, self.log = folder, say, log
        self._missing: dict[str, str] = {}  # name: what is wrong

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint; the former latest.pt becomes previous.pt."""
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
        """At the end of a run: raise UserError if the last latest.pt or best.pt could not be written."""
        for name in ("latest.pt", "best.pt"):
            if name in self._missing:
                raise UserError(f"{self.folder}: {self._missing[name]}; make room and go on with --resume auto")


MOST_NAMED = 5  # damaged samples in a line


def write_config(context: RunContext, config: TrainConfig, *, preset: str, index: ShardIndex) -> None:
    """Write config.json: recipe, execution settings, dataset and versions of the run."""
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
    save_json(context.out / "config.json", about)


def accuracy_lines(scores: VideoScores) -> list[str]:
    """Lines with the accuracies and the chance level, aligned."""
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
    """The first damaged samples, in a line.

    >>> named({"000012": {"tar": "a.tar", "reason": "it does not decode"}})
    '000012 of a.tar (it does not decode); tools/check_shards.py finds all damage'
    """
    some = [f"{key} of {about['tar']} ({about['reason']})" for key, about in list(damaged.items())[:MOST_NAMED]]
    more = [f"{len(damaged) - MOST_NAMED} more"] if len(damaged) > MOST_NAMED else []
    return f"{', '.join(some + more)}; tools/check_shards.py finds all damage"


def last_lines(out: Path, scores: VideoScores | None, *, step: int, steps: int, tally: Tally) -> list[str]:
    """The last lines of output: result and files of a run; `scores` is None if a signal stopped it."""
    stopped = f"stopped by a signal at step {step} of {steps} and saved; the same command goes on from there"
    replaced = f"damaged     {len(tally.damaged)} samples, {tally.num_replaced} clips replaced: {named(tally.damaged)}"
    return [
        *(accuracy_lines(scores) if scores is not None else [stopped]),
        *([replaced] if tally.num_replaced else []),
        f"checkpoint  {out / 'latest.pt'}",
        f"logs        {out / 'metrics.jsonl'}, tensorboard --logdir {out / 'tensorboard'}",
    ]


def result(out: Path, scores: VideoScores | None, *, step: int, best_accuracy: float, tally: Tally) -> dict[str, Any]:
    """The result of a run, as --json prints it."""
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
