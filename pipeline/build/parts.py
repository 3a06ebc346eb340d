"""parts/*.json: what a tar was made from, by which a later build knows whether to keep it."""

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from res3d_video.pipeline.datasets import VideoRecord
from res3d_video.pipeline.index import ShardError
from res3d_video.pipeline.shard_writer import sha256_of, to_json
from res3d_video.pipeline.source.limits import Limits
from res3d_video.pipeline.source.plain_file import new_file_opener

PART_VERSION = 3  # of what parts/*.json holds; tars whose part is of another one are made anew
PART_KEYS = {"inputs", "tar", "num_bytes", "sha256", "samples", "quarantine"}
DAY_S = 24 * 3600
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # what a file system without locks says


def fingerprint(head: dict[str, Any], canvas: tuple[int, int] | None, records: list[VideoRecord], *, first: int) -> str:
    """Of everything a tar is made from; files by name, size and modification time."""
    files = []
    for record in records:
        try:
            stat = record.path.stat()
            state = [stat.st_size, stat.st_mtime_ns]
        except OSError:
            state = []
        labels = [record.labels] if record.labels is not None else []
        files.append([record.source, record.label, record.group, record.subsets, state, *labels])
    encoders = ("av", "libavcodec") if head["codec"]["name"] == "h264" else ("simplejpeg",)
    made_by = [head[k] for k in ("name", "codec", "settings")] + [head["tools"][k] for k in ("ffmpeg", *encoders)]
    return hashlib.sha256(to_json([PART_VERSION, made_by, canvas, first, files])).hexdigest()


def limits_met(quarantine: list[dict[str, str]], limits: Limits) -> dict[str, Any]:
    """What a part says of the limits: nothing, unless some video was refused for what they are."""
    refused = any(line["stage"] in ("limit", "open") for line in quarantine)
    return {"limits": asdict(limits)} if refused else {}


def is_finished(out_dir: Path, name: str, inputs: str, *, limits: Limits, read: bool = True) -> bool:
    """Whether the tar of a part is there, whole and made from these inputs; under these limits, if they mattered.

    Args:
        read: Read the tar and compare its checksum; else its size.
    """
    tar = out_dir / f"{name}.tar"
    try:
        part = json.loads((out_dir / "parts" / f"{name}.json").read_bytes())
        if not isinstance(part, dict) or not part.keys() >= PART_KEYS or part["inputs"] != inputs:
            return False
        if part.get("limits", asdict(limits)) != asdict(limits):
            return False
        if not part["samples"]:
            return True
        is_same = sha256_of(tar) == part["sha256"] if read else tar.stat().st_size == part["num_bytes"]
        return is_same and tar.with_suffix(".idx").is_file()
    except (OSError, ValueError, RecursionError):  # not there, or not JSON
        return False


def num_quarantined(out_dir: Path, name: str) -> int:
    """Videos that failed, as the part of a finished tar has them."""
    return len(json.loads((out_dir / "parts" / f"{name}.json").read_bytes())["quarantine"])


def listed(out_dir: Path) -> set[str]:
    """Names of all parts that are there, of this build or another."""
    try:  # NFS asks the server again for a folder's list, but may answer from memory whether one file is there
        return {name.removesuffix(".json") for name in os.listdir(out_dir / "parts") if not name.startswith(".")}
    except FileNotFoundError:
        return set()


def clean(out_dir: Path, *, alone: bool = True) -> None:
    """Remove what a killed build left half-written.

    Args:
        alone: No other process writes here. If others may, and all tars are there, tars half-written are nobody's; but
            another process may be writing the index, so such files stay until they are a day old.
    """
    for folder in (out_dir, out_dir / "parts", out_dir / "index"):
        for path in folder.glob(".*.tmp"):
            is_index = folder.name != "parts" and path.name.split(".")[-3] not in ("tar", "idx")
            with suppress(FileNotFoundError):
                if alone or not is_index or time.time() - path.stat().st_mtime > DAY_S:
                    path.unlink()


@contextmanager
def only_builder(out_dir: Path, *, shared: bool = False) -> Iterator[None]:
    """Keep other builds out of a folder, as far as its file system has locks that machines share.

    Nothing is torn where it has none: names of temporary files are each process's own.

    Args:
        shared: Let in others that are `shared` too: the tasks of one build.

    Raises:
        ShardError: One is at work there.
    """
    with open(out_dir / ".lock", "r+", opener=_lock_opener) as lock:  # NFS wants it open for reading and for writing
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ShardError(f"{out_dir}: another build is writing here; wait for it or choose another --out") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield


def _lock_opener(path: str, flags: int) -> int:
    return new_file_opener(path, flags | os.O_CREAT)
