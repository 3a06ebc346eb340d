"""Files of run folders, features and lists that were damaged, or written to do harm: a line each, at bounded cost."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from res3d_video.pipeline.errors import UserError
from res3d_video.tools.figures.curves import read_curves, summarise, what_differs
from res3d_video.tools.pages.run_page import run_page
from res3d_video.tools.playing.selection import config_of_run
from res3d_video.tools.run_reader import read_runs
from res3d_video.train.config import to_dict
from res3d_video.train.evaluation.aslan.pairs import read_pairs
from res3d_video.train.evaluation.features.files import load_features, save_features
from res3d_video.train.evaluation.features.rows import read_rows
from res3d_video.train.evaluation.thumos14.annotations import read_detections
from res3d_video.train.evaluation.thumos14.window_scores import read_scores as read_window_scores
from res3d_video.train.evaluation.thumos14.windows import (
    VideoLength,
    list_windows,
    read_lengths,
    read_windows,
    write_windows,
)
from tests.hostile.tampering import (
    GONE,
    VALUES,
    bounded_memory,
    bytes_tampered,
    changed,
    is_one_line,
    places,
    zip_tampered,
)
from tests.tools.pages.made_runs import scored_line, train_line, write_run, write_scores
from tests.train.test_features import features_of

TEXTS = {
    "nested": b"[" * 10**5, "nested objects": b'{"a":' * 10**5, "NaN": b"NaN", "1e400": b"1e400",
    "5000 digits": b"9" * 5000, "quote": b'"' + b"a" * 10**6,
    "UTF-16": '{"step": 1}'.encode("utf-16"), "a lone surrogate": b'{"event": "\\ud800", "step": 1}', "empty": b"",
    "an array": b"[]", "twice": b'{"event": "train", "step": 1, "step": "x"}',
    "latin-1": b'{"event": "\xe9", "step": 1}',
}  # fmt: skip


def whole_run(folder: Path) -> Path:
    """A run with every file that a command reads."""
    lines = [train_line(step, seconds=2, wait_s=0.1) for step in (1, 2, 3)] + [scored_line("final", 3, 0.5)]
    write_run(folder, lines, steps=3)
    write_scores(folder, ["a", "b"], [("0", "a", "a", 0.9), ("1", "b", "a", 0.7)])
    return folder


def damaged_json(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Each field as something else, and texts that are no such file."""
    value = json.loads(content)
    for i, place in enumerate(places(value, depth=3)):
        for name in [*VALUES][i % 4 :: 4]:
            yield f"{place} {name}", json.dumps(changed(value, place, VALUES[name])).encode()
    yield from TEXTS.items()
    yield from bytes_tampered(content, flips=8, cuts=4)


def damaged_lines(content: bytes) -> Iterator[tuple[str, bytes]]:
    first, second, *rest = content.splitlines(keepends=True)
    for name, line in damaged_json(second):
        yield name, first + line + b"\n" + b"".join(rest)
    yield "many lines", b'{"event":"e","step":1}\n' * 600_000


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "scores.json"])
def test_a_tampered_file_of_a_run_costs_what_it_hit(name: str, tmp_path: Path) -> None:
    run = whole_run(tmp_path / "run")
    content = (run / name).read_bytes()
    ways = damaged_lines if name == "metrics.jsonl" else damaged_json
    num_said = num_ways = 0
    with bounded_memory():
        for way, damaged in ways(content):
            (run / name).write_bytes(damaged)
            (found,) = read_runs([run])
            assert json.dumps(run_page([found], report=lambda *_: None)[1], allow_nan=False), way
            assert all(is_one_line(line) and str(run) in line for line in found.problems), way
            for read in (lambda: summarise([read_curves(run)], window=2), lambda: what_differs([read_curves(run)] * 2)):
                line = refusal(read)
                assert not line or (is_one_line(line) and str(run) in line), way
            line = refusal(lambda: to_dict(config_of_run(run)))
            assert not line or is_one_line(line), way
            num_said += bool(found.problems)
            num_ways += 1
    assert num_ways >= 40
    assert num_said >= num_ways // 4
    shutil.rmtree(run)


def refusal(read: Callable[[], Any]) -> str:
    """The line of a UserError, "" without one."""
    try:
        read()
    except UserError as error:
        return str(error)
    return ""


def npz_tampered(arrays: dict[str, np.ndarray]) -> Iterator[tuple[str, bytes]]:
    """Arrays of other types and shapes, headers that lie, and tricks with the zip file."""
    others: dict[str, Any] = {
        "float": np.float64, "text": np.str_, "bytes": np.bytes_, "complex": np.complex64, "bool": np.bool_,
    }  # fmt: skip
    for name, values in arrays.items():
        edits: dict[str, Any] = {kind: lambda v, k=kind: v.astype(others[k]) for kind in others}
        edits |= {"longer": lambda v: np.concatenate([v, v]) if v.ndim else v,
                  "empty": lambda v: v[:0] if v.ndim else v, "deeper": lambda v: v[None, None],
                  "scalar": lambda v: v.reshape(-1)[0] if v.size else v,
                  "negative": lambda v: np.full_like(v, -1) if v.dtype.kind in "if" else v,
                  "huge": lambda v: np.full(v.shape, 2**62) if v.dtype.kind in "if" else v,
                  "nan": lambda v: np.full(v.shape, np.nan)}  # fmt: skip
        for label, edit in edits.items():
            try:
                edited = arrays | {name: np.array(edit(values))}
            except ValueError:  # no such cast
                continue
            yield f"{name} {label}", npz_bytes(edited)
        yield f"{name} is gone", npz_bytes({key: value for key, value in arrays.items() if key != name})
        yield f"{name} of objects", npz_bytes(arrays | {name: np.array([{}], dtype=object)})
    whole = npz_bytes(arrays)
    yield from zip_tampered(whole)
    yield from bytes_tampered(whole, flips=20, cuts=6)
    for shape in (b"(99999999999999,)", b"(-1,)", b"(1, 2, 3, 4, 5)"):
        start = whole.index(b"'shape': ") + 9
        end = whole.index(b")", start) + 1
        yield f"shape {shape!r}", whole[:start] + shape.ljust(end - start)[: max(end - start, len(shape))] + whole[end:]


def npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore")  # numpy's, of casts
def test_a_tampered_feature_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    save_features(path, features_of("a", "b", "c"))
    with np.load(path) as file:
        arrays = {name: file[name] for name in file}
    about = json.loads(str(arrays["about"]))
    ways = [
        *npz_tampered({name: arrays[name] for name in ("about", "keys", "labels", "subsets", "layer/pool5")} | arrays)
    ]
    for place in places(about, depth=2):
        for value in (GONE, None, -1, "x", [], 10**30):
            text = np.array(json.dumps(changed(about, place, value)))
            ways.append((f"about {place} {value}", npz_bytes(arrays | {"about": text})))
    num_refused = 0
    with bounded_memory():
        for way, content in ways:
            path.write_bytes(content)
            for read in (
                lambda: load_features([path], ["pool5"]).num_missing("1"),
                lambda: read_rows(path, layers=["pool5"], names=("sources", "keys")),
                lambda: read_window_scores(path, list_windows([VideoLength("a", 64, 25.0)])),
            ):  # fmt: skip
                line = refusal(read)
                assert not line or (is_one_line(line) and str(path) in line), (way, line)
                num_refused += bool(line)
    assert num_refused > len(ways)


@pytest.mark.filterwarnings("ignore")
def test_tampered_lists_are_refused_in_one_line(tmp_path: Path) -> None:
    windows = tmp_path / "windows.jsonl"
    write_windows(windows, list_windows([VideoLength("a", 64, 25.0)]))
    lengths = b"video_test_0000004 1012 30\n"
    detections = b"video_test_0000004 1.5 3.5 26 0.75\n"
    numbers = (b"1e400", b"nan", b"inf", b"-1", b"9" * 5000, b"9" * 15, b"x", b"", b"\xff", b"1 2 3")
    ways: list[tuple[Callable[[Path], Any], bytes]] = []
    for read, line in ((read_lengths, lengths), (read_detections, detections)):
        words = line.split()
        ways += [
            (read, b" ".join([*words[:place], number, *words[place + 1 :]]))
            for place in range(len(words))
            for number in numbers
        ]
        ways += [(read, content) for _, content in bytes_tampered(line * 9)]
    ways += [(read_windows, content) for _, content in damaged_lines(windows.read_bytes())]
    ways += [(read_lengths, lengths * 3)]
    path, num_refused = tmp_path / "list.txt", 0
    with bounded_memory():
        for read, content in ways:
            path.write_bytes(content)
            line = refusal(lambda read=read: made_of(read(path)))
            assert not line or (is_one_line(line) and str(path) in line), (content[:80], line)
            num_refused += bool(line)
    assert num_refused > 100


def made_of(found: Any) -> Any:
    """What a command makes of a list next."""
    return list_windows(found) if isinstance(found, list) else found


def test_a_tampered_matrix_of_pairs_is_refused_in_one_line(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    path, pairs, num_refused = tmp_path / "View2.mat", np.tile([1.0, 2, 1, 5, 5], (6, 1)), 0
    tables = [
        pairs[:, :4],
        pairs * 1e9,
        pairs - 1,
        pairs + 0.5,
        np.full_like(pairs, np.nan),
        pairs.astype(str),
        pairs[:0],
    ]
    tables += [np.zeros((10**7, 5)), pairs.astype(complex), np.array([[{}] * 5], dtype=object)]
    contents = []
    for table in tables:
        buffer = io.BytesIO()
        savemat(buffer, {"pairs": table}, do_compression=True)
        contents.append(buffer.getvalue())
    buffer = io.BytesIO()
    savemat(buffer, {"pairs": np.stack([pairs] * 10, axis=2)}, do_compression=True)
    contents += [content for _, content in bytes_tampered(buffer.getvalue(), flips=60)]
    with bounded_memory():
        for content in contents:
            path.write_bytes(content)
            line = refusal(lambda: read_pairs(path))
            assert not line or (is_one_line(line) and str(path) in line), line
            num_refused += bool(line)
    assert num_refused > 40
