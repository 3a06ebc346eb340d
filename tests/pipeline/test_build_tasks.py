"""Shards made by processes that know nothing of each other: the bytes of one local run, whatever happens to them."""

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

import res3d_video.pipeline.codecs.filmstrip
import res3d_video.pipeline.convert.shard
import res3d_video.pipeline.ingest.inspector
from res3d_video.pipeline.convert.plan import BuildSettings, ShardTask, plan_build
from res3d_video.pipeline.convert.run import BuildProgress, build_shards
from res3d_video.pipeline.convert.samples import Converted, convert
from res3d_video.pipeline.convert.shard import (
    Counts,
    OtherInputsError,
    clean,
    counts_of_finished,
    make_shard,
    only_builder,
    write_shard,
)
from res3d_video.pipeline.datasets import Listing, list_folder
from res3d_video.pipeline.index import ShardError, open_index
from res3d_video.pipeline.ingest.inspector import THIS_CODE, Inspector
from res3d_video.tools.numbered import write_numbered_video
from tests.pipeline.test_build import contents
from tests.until import until

CHECKOUT = Path(__file__).resolve().parents[2]
SETTINGS = BuildSettings(size=32, samples_per_shard=2)
NUM_SHARDS = 5


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight short videos and one that cannot be read: five shards."""
    raw = tmp_path_factory.mktemp("raw")
    for i in range(8):
        path = raw / f"class{i % 2}" / f"v{i}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_numbered_video(path, 5 + i, height=48, width=64)
    (raw / "class0" / "broken.mp4").write_text("no video")
    return raw


@pytest.fixture(scope="module")
def listing(raw: Path) -> Listing:
    return list_folder(raw, name="few", test_fraction=0.25)


@pytest.fixture(scope="module")
def local(listing: Listing, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one local run makes."""
    out = tmp_path_factory.mktemp("local")
    build_shards(listing, out, SETTINGS, workers=2)
    assert len(open_index(out).tars) == NUM_SHARDS
    return out


def tasks_of(listing: Listing) -> list[ShardTask]:
    with Inspector() as inspector, ThreadPoolExecutor(1) as pool:
        return plan_build(listing, SETTINGS, pool, limit=None, inspector=inspector, report=lambda *counts: None)[1]


def started(raw: Path, out: Path, task: str) -> subprocess.Popen[str]:
    options = "--name few --test-fraction 0.25 --size 32 --samples-per-shard 2 --workers 1 --json --quiet"
    command = [sys.executable, "tools/make_shards.py", "folder", "--raw", str(raw), "--out", str(out), "--task", task]
    return subprocess.Popen(
        [*command, *options.split(), "--no-keep-aspect"],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_tasks_in_any_order_give_the_bytes_of_one_run_and_do_nothing_twice(
    listing: Listing, local: Path, tmp_path: Path, order: tuple[int, ...]
) -> None:
    results = []
    for number in order:
        assert not (tmp_path / "dataset.json").exists()
        results.append(build_shards(listing, tmp_path, SETTINGS, workers=2, task=(number, 3)))
    assert [result.is_whole for result in results] == [False, False, True]
    assert sum(result.num_shards_written for result in results) == NUM_SHARDS
    assert contents(tmp_path) == contents(local)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in tmp_path.rglob("*") if p.name != ".lock"}
    for number in order:
        result = build_shards(listing, tmp_path, SETTINGS, workers=2, task=(number, 3))
        assert (result.num_shards_written, result.num_shards_there, result.num_samples) == (0, NUM_SHARDS, 8)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in tmp_path.rglob("*") if p.name != ".lock"} == before


def test_a_task_tells_of_its_own_videos_and_of_all_shards(listing: Listing, tmp_path: Path) -> None:
    build_shards(listing, tmp_path, SETTINGS, workers=1, task=(1, 2))
    told: list[BuildProgress] = []
    build_shards(listing, tmp_path, SETTINGS, workers=1, task=(2, 2), report=told.append)
    assert (told[-1].num_done, told[-1].num_total) == (4, 4)
    assert (told[0].num_shards, told[-1].num_shards, told[-1].num_shards_total) == (3, NUM_SHARDS, NUM_SHARDS)


def test_processes_that_make_some_shards_twice_and_write_the_index_at_once_give_the_bytes_of_one_run(
    raw: Path, local: Path, tmp_path: Path
) -> None:
    for tasks in (("1/2", "2/2", "1/1"), ("1/1", "1/1", "1/1")):  # the second time, only the index is to be written
        processes = [started(raw, tmp_path, task) for task in tasks]
        results = []
        for process in processes:
            out, err = process.communicate(timeout=100)
            assert (process.returncode, err) == (0, "")
            results.append(json.loads(out))
        assert any(result["num_samples"] == 8 for result in results)
        assert contents(tmp_path) == contents(local)
        shutil.rmtree(tmp_path / "index")
        (tmp_path / "dataset.json").unlink()


def test_a_task_killed_in_the_middle_goes_on(raw: Path, listing: Listing, local: Path, tmp_path: Path) -> None:
    process = started(raw, tmp_path, "1/2")
    until(lambda: process.poll() is not None or list(tmp_path.glob(".few-*.tar.*.tmp")))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "killed too late to be a test"
    assert not build_shards(listing, tmp_path, SETTINGS, workers=2, task=(2, 2)).is_whole
    assert build_shards(listing, tmp_path, SETTINGS, workers=2, task=(1, 2)).is_whole
    assert contents(tmp_path) == contents(local)


def test_tasks_let_each_other_in_but_nobody_else(tmp_path: Path) -> None:
    with only_builder(tmp_path, shared=True):
        with only_builder(tmp_path, shared=True):
            pass
        with pytest.raises(ShardError, match="another build is writing here"), only_builder(tmp_path):
            pass
    with (
        only_builder(tmp_path),
        pytest.raises(ShardError, match="another build is writing here"),
        only_builder(tmp_path, shared=True),
    ):
        pass


def test_a_file_system_without_locks_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with only_builder(tmp_path):
        pass


def test_a_task_can_travel(listing: Listing, local: Path, tmp_path: Path) -> None:
    """One shard is made from its task alone, as on another machine."""
    (tmp_path / "parts").mkdir()
    for task in tasks_of(listing):
        assert pickle.loads(pickle.dumps(task)) == task
        counts = make_shard(pickle.loads(pickle.dumps(task)), tmp_path)
        assert counts["videos"] == len(task.records)
        for name in (f"{task.name}.tar", f"{task.name}.idx", f"parts/{task.name}.json"):
            assert (tmp_path / name).read_bytes() == (local / name).read_bytes()
        assert make_shard(task, tmp_path) == counts - Counts(frames=counts["frames"])


def test_a_machine_that_sees_other_videos_makes_nothing(listing: Listing, tmp_path: Path) -> None:
    task = tasks_of(listing)[0]
    elsewhere = replace(task, records=tuple(replace(r, path=Path("/nowhere/at/all/x.mp4")) for r in task.records))
    with pytest.raises(OtherInputsError, match="few-000000: .* sees other videos or has other versions"):
        make_shard(elsewhere, tmp_path)
    assert list(tmp_path.iterdir()) == []


def converted(task: ShardTask, then: Callable[[], object]) -> Iterator[Converted]:
    """What becomes of a task's videos; at the end something happens."""
    with Inspector(task.limits) as inspector:
        for place in range(len(task.records)):
            yield convert(task, place, inspector)
    then()


@pytest.mark.parametrize("cleaned", [False, True])
def test_who_comes_later_leaves_a_finished_shard_as_it_is(
    listing: Listing, local: Path, tmp_path: Path, cleaned: bool
) -> None:
    """Another process finishes this shard meanwhile; perhaps the whole build, which removes half-written tars."""
    task = tasks_of(listing)[1]

    def finish_elsewhere() -> None:
        shutil.copytree(local, tmp_path, dirs_exist_ok=True)
        if cleaned:
            clean(tmp_path, alone=False)
            assert not list(tmp_path.glob(".few*.tmp"))

    counts = write_shard(task, converted(task, finish_elsewhere), tmp_path)
    assert counts == counts_of_finished(task, tmp_path)
    assert contents(tmp_path) == contents(local)


def test_a_shard_that_another_process_makes_otherwise_at_the_same_time_counts_as_not_made(
    listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as on a machine so slow that a video there exceeds its time."""
    task = tasks_of(listing)[1]
    write = res3d_video.pipeline.convert.shard.write_atomically

    def write_part(path: Path, data: bytes) -> bool:
        (tmp_path / "other").write_bytes(b"another tar")
        (tmp_path / "other").replace(tmp_path / f"{task.name}.tar")
        return write(path, data)

    monkeypatch.setattr(res3d_video.pipeline.convert.shard, "write_atomically", write_part)
    with pytest.raises(ShardError, match="few-000001: another process has made it at the same time"):
        write_shard(task, converted(task, lambda: None), tmp_path)
    assert not (tmp_path / "parts" / f"{task.name}.json").exists()
    monkeypatch.undo()
    make_shard(task, tmp_path)
    assert (tmp_path / f"{task.name}.tar").read_bytes() != b"another tar"


def test_beside_others_only_tars_and_old_files_are_cleaned_away(tmp_path: Path) -> None:
    for folder in ("parts", "index"):
        (tmp_path / folder).mkdir()
    tars = [".a.b-000000.tar.t-1.tmp", ".a.b-000000.idx.t-1.tmp", "parts/.a.b-000000.json.t-1.tmp"]
    index = [".label.npy.t-1.tmp", ".dataset.json.t-1.tmp", ".quarantine.jsonl.t-1.tmp"]
    for name in [*tars, *index, ".old.npy.t-2.tmp", "kept.tar"]:
        (tmp_path / name).touch()
    os.utime(tmp_path / ".old.npy.t-2.tmp", (0, 0))
    clean(tmp_path, alone=False)
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == {*index, "kept.tar"}
    clean(tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["kept.tar"]


def failing(monkeypatch: pytest.MonkeyPatch, source: str, error: Exception, *, times: int) -> list[str]:
    """Make the conversion of one video fail so often; the sources that were tried."""
    tried: list[str] = []

    def convert_or_fail(task: ShardTask, place: int, inspector: Inspector) -> Converted:
        tried.append(task.records[place].source)
        if task.records[place].source == source and tried.count(source) <= times:
            raise error
        return convert(task, place, inspector)

    monkeypatch.setattr(res3d_video.pipeline.convert.shard, "convert", convert_or_fail)
    return tried


def test_a_shard_that_fails_twice_is_made_the_third_time(
    listing: Listing, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "class1/v3.mp4", OSError(errno.EIO, "no such luck"), times=2)
    told: list[BuildProgress] = []
    result = build_shards(listing, tmp_path, SETTINGS, workers=2, report=told.append)
    assert result.num_shards_written == NUM_SHARDS
    assert (told[-1].num_done, told[-1].num_total, told[-1].num_shards, told[-1].num_failed) == (9, 9, 5, 1)
    assert contents(tmp_path) == contents(local)


def test_a_shard_that_fails_three_times_is_named_and_the_others_are_made(
    listing: Listing, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(task.name for task in tasks_of(listing) if "v3.mp4" in str(task.records))
    tried = failing(monkeypatch, "class1/v3.mp4", OSError(errno.EIO, "no such\nluck"), times=9)
    said = rf"1 shards failed 3 times, 4 others were made: {name} \(no such luck\); the same command"
    with pytest.raises(ShardError, match=said):
        build_shards(listing, tmp_path, SETTINGS, workers=2)
    assert tried.count("class1/v3.mp4") == 3
    assert not (tmp_path / "dataset.json").exists()
    monkeypatch.undo()
    assert build_shards(listing, tmp_path, SETTINGS, workers=2).num_shards_kept == 4
    assert contents(tmp_path) == contents(local)


def test_a_full_disk_ends_a_build_at_once(listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = failing(monkeypatch, "class1/v3.mp4", OSError(errno.ENOSPC, "No space left on device"), times=9)
    with pytest.raises(OSError, match="No space left"):
        build_shards(listing, tmp_path, SETTINGS, workers=1)
    assert tried.count("class1/v3.mp4") == 1


BUGS = {"len(1)": TypeError, "None.width": AttributeError, "int('a')": ValueError}  # code that was never right


@pytest.mark.parametrize(("bug", "keep_aspect"), [(bug, i == 0) for i, bug in enumerate(BUGS)])  # one while planning
def test_a_bug_in_the_process_that_reads_videos_is_no_fault_of_a_video(
    listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: str, keep_aspect: bool
) -> None:
    code = f"import res3d_video.pipeline.ingest.inspector as i; i.probe = lambda path, guard: {bug}; i.serve()"
    monkeypatch.setattr(res3d_video.pipeline.ingest.inspector, "START", code)
    settings = replace(SETTINGS, keep_aspect=keep_aspect)
    with pytest.raises(RuntimeError, match=rf"(?s)class\d/.*Traceback.*{BUGS[bug].__name__}"):
        build_shards(listing, tmp_path, settings, workers=1, limit=2)
    assert not list(tmp_path.glob("parts/*.json"))


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_while_encoding_stops_the_build_at_once_and_keeps_its_class(
    listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: str
) -> None:
    tried: list[object] = []

    def encode(*args: object, **options: object) -> object:
        tried.append(args)
        return eval(bug)

    monkeypatch.setattr(res3d_video.pipeline.codecs.filmstrip.FilmstripCodec, "encode", encode)
    with pytest.raises(BUGS[bug]):
        build_shards(listing, tmp_path, SETTINGS, workers=1)
    assert len(tried) <= 4, "nothing is tried again"


def test_the_process_that_reads_videos_runs_the_code_of_this_checkout(tmp_path: Path) -> None:
    words = f"import sys; {THIS_CODE}; import res3d_video.pipeline; print(res3d_video.pipeline.__file__)"
    done = subprocess.run([sys.executable, "-c", words], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == CHECKOUT / "pipeline/__init__.py"
