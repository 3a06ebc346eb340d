"""Ways to damage a dataset folder, and what a loader makes of each; run as a process of its own, which may crash.

python -m tests.hostile.damage FOLDER SCRATCH STEP

It prints two lines of JSON for every STEP-th way: one before, and one with the outcome.
"""

import io
import json
import os
import random
import resource
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardError, open_index
from res3d_video.pipeline.loader import ClipLoader, LoaderError
from res3d_video.pipeline.plan import TrainPlan
from res3d_video.pipeline.verify import verify

Way = tuple[str, Callable[[Path], object]]
VALUES: dict[str, Any] = {
    "gone": None,
    "null": None,
    "negative": -1,
    "huge": 10**30,
    "text": "x",
    "list": [],
    "half": 0.5,
}
VALUES |= {"object": {}, "true": True, "path": "../../etc/passwd", "zero": 0, "deep": json.loads("[" * 99 + "]" * 99)}


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def ways(folder: Path) -> Iterator[Way]:
    """All of them; the dataset in `folder` is as large as the damage that is made to it."""
    tars = sorted(path.name for path in folder.glob("*.tar"))
    yield from of_tars(folder, tars)
    for tar in tars:
        yield from of_any_file(tar.replace(".tar", ".idx"))
    for path in sorted((folder / "index").glob("*.npy")):
        yield from of_any_file(f"index/{path.name}")
        yield from of_array(f"index/{path.name}")
    yield from of_any_file("dataset.json")
    yield from of_info(json.loads((folder / "dataset.json").read_text()))


def change(name: str, edit: Callable[[bytearray], object]) -> Callable[[Path], object]:
    """Edit the bytes of a file."""

    def apply(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        edited = edit(content)
        (folder / name).write_bytes(content if edited is None else bytes(edited))  # type: ignore[call-overload]

    return apply


def instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Put something else in the place of a file."""

    def apply(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return apply


def flip(content: bytearray, *, seed: int, count: int, end: int | None = None) -> None:
    drawn = random.Random(seed)
    for _ in range(count):
        content[drawn.randrange(min(end or len(content), len(content)))] ^= 1 << drawn.randrange(8)


def of_any_file(name: str) -> Iterator[Way]:
    """What can happen to any file."""
    yield f"{name} is gone", lambda folder: (folder / name).unlink()
    yield f"{name} is empty", change(name, lambda content: b"")
    yield f"{name} is cut", change(name, lambda content: content[: len(content) // 2])
    yield f"{name} is cut by a byte", change(name, lambda content: content[:-1])
    yield f"{name} is longer", change(name, lambda content: content + b"\0")
    yield f"{name} is noise", change(name, lambda content: random.Random(0).randbytes(5000))
    yield f"{name} is a folder", instead(name, Path.mkdir)
    yield f"{name} is a pipe", instead(name, os.mkfifo)
    yield f"{name} is a device", instead(name, lambda path: path.symlink_to("/dev/zero"))
    yield f"{name} is a loop", instead(name, lambda path: path.symlink_to(path.name))


def of_tars(folder: Path, tars: list[str]) -> Iterator[Way]:
    for tar in tars:
        yield from of_any_file(tar)
        for seed in range(15):
            yield (
                f"{tar} flipped {seed}",
                change(tar, lambda content, seed=seed: flip(content, seed=seed, count=4 ** (seed % 6))),
            )
        size = (folder / tar).stat().st_size
        for place in range(0, size, size // 8):
            yield f"{tar} cut at {place}", change(tar, lambda content, place=place: content[:place])
            yield (
                f"{tar} zeros at {place}",
                change(tar, lambda content, place=place: content[:place] + bytes(900) + content[place + 900 :]),
            )
    yield "one tar is the other", lambda folder: shutil.copy(folder / tars[0], folder / tars[1])
    yield "all tars are gone", lambda folder: [(folder / tar).unlink() for tar in tars]


def of_array(name: str) -> Iterator[Way]:
    for seed in range(8):
        yield f"{name} head flipped {seed}", change(name, lambda c, seed=seed: flip(c, seed=seed, count=1, end=128))
        yield f"{name} flipped {seed}", change(name, lambda c, seed=seed: flip(c, seed=seed, count=1 + seed))

    def edited(edit: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
        return change(name, lambda content: npy_bytes(edit(np.load(io.BytesIO(content)).copy())))

    yield f"{name} of another type", edited(lambda array: array.astype("f8" if array.dtype.kind in "iub" else "S1"))
    yield f"{name} byte-swapped", edited(lambda array: array.astype(array.dtype.newbyteorder(">")))
    yield f"{name} of one more", edited(lambda array: np.concatenate([array, array[:1]]))
    yield f"{name} of one fewer", edited(lambda array: array[:-1])
    yield f"{name} of none", edited(lambda array: array[:0])
    yield f"{name} of another shape", edited(lambda array: array[None])
    yield f"{name} in columns", edited(lambda array: np.asfortranarray(np.stack([array, array]))[0])
    yield f"{name} backwards", edited(lambda array: array[::-1])
    yield f"{name} is a zip", change(name, lambda content: b"PK\3\4" + content[4:])
    yield f"{name} of objects", change(name, lambda c: c.replace(b"'<i4'", b"'|O' ").replace(b"'<i8'", b"'|O' "))
    yield (
        f"{name} claims more",
        change(name, lambda c: c.replace(b"'shape': (", b"'shape': (9999999", 1).replace(b" " * 7, b"", 1)),
    )
    for value in (-1, 1, 99, 2**31 - 1, -(2**31), 2**62):
        yield f"{name} all {value}", edited(lambda array, value=value: filled(array, value, slice(None)))
        yield f"{name} first {value}", edited(lambda array, value=value: filled(array, value, slice(0, 1)))


def filled(array: np.ndarray, value: int, rows: slice) -> np.ndarray:
    """An array with a value in some rows, as far as its type holds it."""
    array[rows] = np.array(value).astype(array.dtype)
    return array


def of_info(info: dict[str, Any]) -> Iterator[Way]:
    """Each field of dataset.json as something else."""

    def put(path: tuple[Any, ...], kind: str) -> Callable[[Path], object]:
        def apply(folder: Path) -> None:
            changed = json.loads((folder / "dataset.json").read_text())
            owner = changed
            for key in path[:-1]:
                owner = owner[key]
            if kind == "gone":
                del owner[path[-1]]
            else:
                owner[path[-1]] = VALUES[kind]
            (folder / "dataset.json").write_text(json.dumps(changed))

        return apply

    fields = [(key,) for key in info] + [("codec", key) for key in info["codec"]]
    fields += [("shards", 0, key) for key in info["shards"][0]] + [("splits", "1"), ("classes", 0), ("shards", 0)]
    for path in fields:
        for kind in VALUES:
            yield f"dataset.json {path} {kind}", put(path, kind)
    texts = [
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        b"\xff\xfe{}",
        b'{"a": 1' + b"0" * 5000 + b"}",
        b'{"a":' * 50_000,
        b"NaN",
    ]
    for i, text in enumerate(texts):
        yield f"dataset.json text {i}", change("dataset.json", lambda content, text=text: text)


def outcome(folder: Path) -> dict[str, Any]:
    """What becomes of checking a dataset, opening it and training on it for three steps."""
    try:
        assert all("\n" not in fault for fault in verify(folder)[1])
        index = open_index(folder)
        samples = index.samples_of("1", "train")
        plan = TrainPlan(index, samples, ClipSpec(4, 2, crop_size=32), global_batch_size=4, seed=0)
        with ClipLoader(index, plan) as loader:
            batches = [batch for _, batch in zip(range(3), loader, strict=False)]
            assert all(batch.clips.shape == (4, 3, 4, 32, 32) for batch in batches)
            assert all(0 <= batch.labels.min() <= batch.labels.max() < len(index.classes) for batch in batches)
            return {"batches": len(batches), "replaced": loader.num_replaced, "bad": len(loader.bad_samples)}
    except (ShardError, LoaderError, ValueError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        ours = isinstance(error, ShardError | LoaderError) or "/pipeline/" in where
        return {"refused": str(error)} if ours else {"crashed": traceback.format_exc()}
    except Exception:
        return {"crashed": traceback.format_exc()}


def main(folder: Path, scratch: Path, step: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))  # what reads without an end fails here, not the machine
    for number, (name, damage) in enumerate(ways(folder)):
        if number % step:
            continue
        print(json.dumps({"name": name}), flush=True)  # before, so that a crash is known by its name
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(folder, scratch)
        damage(scratch)
        print(json.dumps({"name": name, **outcome(scratch)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
