"""Files of run folders, features and lists that were damaged, or written to do harm: a line each, at bounded cost."""

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from res3d_video.pipeline.errors import UserError
from res3d_video.tools.pages.run_page import run_page
from res3d_video.tools.plots import read_curves, what_differs
from res3d_video.tools.run_reader import config_of, read_about, read_runs
from res3d_video.train.config import to_dict
from res3d_video.train.evaluation.features import load_features, save_features
from res3d_video.train.paper.aslan import read_pairs
from res3d_video.train.paper.thumos14 import (
    VideoLength,
    list_windows,
    read_detections,
    read_lengths,
    read_window_features,
)
from tests.features import made_features
from tests.hostile.tampering import GONE, VALUES, bounded_memory, bytes_tampered, changed, is_one_line, places
from tests.tools.pages.made_runs import scored_line, train_line, write_run, write_scores

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
            html = run_page([found], report=lambda *_: None)
            assert not re.search(r"\b(nan|inf)\b", html), way
            assert all(is_one_line(line) and str(run) in line for line in found.problems), way
            line = refusal(lambda: what_differs([read_curves(run)] * 2))
            assert not line or (is_one_line(line) and str(run) in line), way
            line = refusal(lambda: to_dict(config_of(run, read_about(run))))
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


def parquet_tampered(table: Any) -> Iterator[tuple[str, bytes]]:
    """Columns of other types, lengths and values, and of far more rows than bytes."""
    pa = pytest.importorskip("pyarrow")
    for place, name in enumerate(table.column_names):
        n, kind = len(table), pa.float64() if pa.types.is_list(table[name].type) else table[name].type
        others = {
            "float": pa.array([0.5] * n), "text": pa.array(["x"] * n), "bytes": pa.array([b"\xff"] * n),
            "bool": pa.array([True] * n), "null": pa.nulls(n, kind), "typeless": pa.nulls(n),
            "negative": pa.array([-1] * n), "empty lists": pa.array([[]] * n),
            "huge": pa.array([2**63] * n, pa.uint64()), "nan": pa.array([np.nan] * n),
            "ragged": pa.array([[1.0] * k for k in range(n)]), "lists of text": pa.array([["train"]] * n),
            "lists of null": pa.array([[None, 1.0]] * n), "deeper": pa.array([[[1.0]]] * n),
            "objects": pa.array([{"a": 1}] * n), "a dictionary": pa.array(["x"] * n).dictionary_encode(),
            "infinite lists": pa.array([[np.inf, 1.0]] * n), "times": pa.array([1] * n, pa.timestamp("s")),
        }  # fmt: skip
        for label, values in others.items():
            yield f"{name} {label}", parquet_bytes(table.set_column(place, name, values))
        yield f"{name} is gone", parquet_bytes(table.drop_columns([name]))
        yield f"{name} twice", parquet_bytes(table.append_column(name, table[name]))
    bomb = pa.table({name: pa.repeat(table[name][0], 10**6) for name in ("key", "source", "label")})
    yield "bomb", parquet_bytes(bomb.append_column("pool5", pa.array([[0.0] * 64] * 10**6)))
    whole = parquet_bytes(table)
    yield from bytes_tampered(whole, flips=60, cuts=8)
    yield "no rows", parquet_bytes(table.slice(0, 0))


def parquet_bytes(table: Any, **metadata: str) -> bytes:
    pq = pytest.importorskip("pyarrow.parquet")
    buffer = io.BytesIO()
    found = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    pq.write_table(table.replace_schema_metadata(found | metadata), buffer)
    return buffer.getvalue()


def test_a_tampered_feature_file_is_refused_in_one_line(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "f.parquet"
    whole = made_features(["a", "b", "c"], {"res5b": np.ones((3, 3)), "pool5": np.ones((3, 2))})
    save_features(path, whole)
    table = pq.read_table(path)
    ways = [*parquet_tampered(table)]
    for place in places(whole.about, depth=2):
        for value in (GONE, None, -1, "x", [], 10**30):
            about = json.dumps(changed(whole.about, place, value))
            ways.append((f"about {place} {value}", parquet_bytes(table, about=about)))
    for name, text in TEXTS.items():
        for key in ("about", "unreadable"):
            ways.append((f"{key} {name}", parquet_bytes(table, **{key: text.decode("latin-1")})))
    num_refused = 0
    with bounded_memory():
        for way, content in ways:
            path.write_bytes(content)
            for read in (
                lambda: load_features(path, ["pool5"]).of_videos().num_test_seen("2"),
                lambda: read_window_features(path, list_windows([VideoLength("a", 64, 25.0)]), layer="pool5"),
            ):  # fmt: skip
                line = refusal(read)
                assert not line or (is_one_line(line) and str(path) in line), (way, line)
                num_refused += bool(line)
    assert num_refused > len(ways)


@pytest.mark.filterwarnings("ignore")
def test_tampered_lists_are_refused_in_one_line(tmp_path: Path) -> None:
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
