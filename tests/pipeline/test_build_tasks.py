"""Shards made by processes that know nothing of each other: the bytes of one local run, whatever happens to them."""

import errno
import itertools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

import res3d_video.pipeline.codecs.filmstrip
import res3d_video.pipeline.convert.shard
import res3d_video.pipeline.ingest.inspector
from res3d_video.pipeline.convert.plan import BuildSettings, ShardTask, plan_build
from res3d_video.pipeline.convert.run import BuildProgress, TaskResult, build_shards, build_task, finish_build, share
from res3d_video.pipeline.convert.samples import Converted, convert
from res3d_video.pipeline.convert.shard import (
    OtherInputsError,
    clean,
    counts_of_finished,
    make_shard,
    only_builder,
    write_shard,
)
from res3d_video.pipeline.datasets import Listing, list_folder
from res3d_video.pipeline.files import temporary_of
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
        plan = plan_build(listing, SETTINGS, pool, limit=None, inspector=inspector, report=lambda *counts: None)
    return plan.tasks


def command(raw: Path, out: Path, *words: str) -> list[str]:
    options = (
        "--name few --test-fraction 0.25 --size 32 --samples-per-shard 2 --workers 1 --json --quiet --no-keep-aspect"
    )
    start = [sys.executable, "tools/make_shards.py", "folder", "--raw", str(raw), "--out", str(out)]
    return [*start, *options.split(), *words]


def started(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.parametrize("num_shards", range(7))
@pytest.mark.parametrize("num_tasks", range(1, 9))
def test_tasks_share_all_shards_and_none_has_two_owners(num_shards: int, num_tasks: int) -> None:
    shards: list = list(range(num_shards))
    shares = [share(shards, number=i, num_tasks=num_tasks) for i in range(1, num_tasks + 1)]
    assert sorted(itertools.chain(*shares)) == shards
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for number in (0, num_tasks + 1):
        with pytest.raises(ValueError, match=f"choose 1/{num_tasks} to"):
            share(shards, number=number, num_tasks=num_tasks)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 3, 1)])
def test_tasks_in_any_order_give_the_bytes_of_one_run(
    listing: Listing, local: Path, tmp_path: Path, order: tuple[int, ...]
) -> None:
    results: list[TaskResult] = []
    for number in order:
        assert not (tmp_path / "dataset.json").exists()
        results.append(build_task(listing, tmp_path, SETTINGS, number=number, num_tasks=3, workers=2))
    assert [result.whole is not None for result in results] == [False, False, True]
    assert sum(result.num_shards_written for result in results) == NUM_SHARDS
    assert contents(tmp_path) == contents(local)


def test_a_task_run_again_does_nothing_twice(listing: Listing, local: Path, tmp_path: Path) -> None:
    shutil.copytree(local, tmp_path, dirs_exist_ok=True)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in tmp_path.rglob("*") if p.name != ".lock"}
    for number in (2, 1, 3):
        result = build_task(listing, tmp_path, SETTINGS, number=number, num_tasks=3, workers=2)
        assert (result.num_shards_written, result.num_shards_there, result.whole) == (0, NUM_SHARDS, None)
    whole = finish_build(listing, tmp_path, SETTINGS, workers=1)
    assert (whole.num_files_changed, whole.num_samples, whole.num_quarantined) == (0, 8, 1)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in tmp_path.rglob("*") if p.name != ".lock"} == before


def test_a_task_tells_of_its_own_videos_and_of_all_shards(listing: Listing, tmp_path: Path) -> None:
    build_task(listing, tmp_path, SETTINGS, number=1, num_tasks=2, workers=1)
    told: list[BuildProgress] = []
    build_task(listing, tmp_path, SETTINGS, number=2, num_tasks=2, workers=1, report=told.append)
    assert (told[-1].num_done, told[-1].num_total) == (4, 4)
    assert (told[0].num_shards, told[-1].num_shards, told[-1].num_shards_total) == (3, NUM_SHARDS, NUM_SHARDS)


def test_three_processes_at_once_give_the_bytes_of_one_run(raw: Path, local: Path, tmp_path: Path) -> None:
    processes = [started(command(raw, tmp_path, "--task", f"{i}/3")) for i in (1, 2, 3)]
    results = []
    for process in processes:
        out, err = process.communicate(timeout=100)
        assert (process.returncode, err) == (0, "")
        results.append(json.loads(out))
    assert sum(result["num_shards_written"] for result in results) == NUM_SHARDS
    assert any(result["whole"] for result in results)
    assert contents(tmp_path) == contents(local)


def test_a_task_killed_in_the_middle_goes_on(raw: Path, listing: Listing, local: Path, tmp_path: Path) -> None:
    process = started(command(raw, tmp_path, "--task", "1/2"))
    until(lambda: process.poll() is not None or list(tmp_path.glob(".few-*.tar.*.tmp")))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "killed too late to be a test"
    assert not build_task(listing, tmp_path, SETTINGS, number=2, num_tasks=2, workers=2).whole
    with pytest.raises(ShardError, match="of 5 shards are not there"):
        finish_build(listing, tmp_path, SETTINGS, workers=1)
    assert build_task(listing, tmp_path, SETTINGS, number=1, num_tasks=2, workers=2).whole
    assert contents(tmp_path) == contents(local)


def test_two_processes_that_write_the_index_at_once_write_the_same(raw: Path, local: Path, tmp_path: Path) -> None:
    shutil.copytree(local, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "index")
    (tmp_path / "dataset.json").unlink()
    processes = [started(command(raw, tmp_path, "--finish")) for _ in range(3)]
    for process in processes:
        assert process.communicate(timeout=100)[1] == ""
        assert process.returncode == 0
    assert contents(tmp_path) == contents(local)


def test_two_processes_that_make_the_same_shards_at_once_make_the_same(raw: Path, local: Path, tmp_path: Path) -> None:
    processes = [started(command(raw, tmp_path, "--task", "1/1")) for _ in range(2)]
    for process in processes:
        assert process.communicate(timeout=100)[1] == ""
        assert process.returncode == 0
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
        assert counts.num_videos == len(task.records)
        for name in (f"{task.name}.tar", f"{task.name}.idx", f"parts/{task.name}.json"):
            assert (tmp_path / name).read_bytes() == (local / name).read_bytes()
        assert make_shard(task, tmp_path) == replace(counts, num_frames=0)  # it is there, with the videos that failed


def test_a_machine_that_sees_other_videos_makes_nothing(listing: Listing, tmp_path: Path) -> None:
    task = tasks_of(listing)[0]
    elsewhere = replace(task, records=tuple(replace(r, path=Path("/nowhere/at/all/x.mp4")) for r in task.records))
    with pytest.raises(OtherInputsError, match="few-000000: .* sees other videos or has other versions"):
        make_shard(elsewhere, tmp_path)
    assert list(tmp_path.iterdir()) == []


def converted(task: ShardTask, then: Callable[[], object]) -> Iterator[Future[Converted]]:
    """What a worker converts; at the end something happens."""
    with Inspector(task.limits) as inspector, ThreadPoolExecutor(1) as pool:
        for place in range(len(task.records)):
            yield pool.submit(convert, task, place, inspector)
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


def test_temporary_names_are_those_of_one_process() -> None:
    code = (
        "import pipeline; from pathlib import Path; from res3d_video.pipeline.files import temporary_of; "
        "print(temporary_of(Path('a.tar')))"
    )
    other = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    mine = temporary_of(Path("a.tar"))
    assert mine == temporary_of(Path("a.tar")) != Path(other.stdout.strip())
    assert all(name.startswith(".a.tar.") and name.endswith(".tmp") for name in (str(mine), other.stdout.strip()))


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


BUGS = {  # an expression that fails as code does that was never right -> how
    "len(1)": TypeError,
    "None.width": AttributeError,
    "undefined": NameError,
    "{}['width']": KeyError,
    "__import__('no_such_module')": ModuleNotFoundError,
    "int('a')": ValueError,
    "[][0]": IndexError,
    "1 / 0": ZeroDivisionError,
    "(_ for _ in ()).throw(AssertionError)": AssertionError,
}


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


def test_a_module_that_is_missing_there_is_no_fault_of_a_video(
    listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "av").mkdir()
    (tmp_path / "av/__init__.py").write_text("from nowhere import FFmpegError")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="(?s)Traceback.*No module named 'nowhere'"):
        build_shards(listing, tmp_path / "out", SETTINGS, workers=1)


@pytest.mark.parametrize("bug", BUGS)
@pytest.mark.parametrize("executor", ["local", "task"])
def test_a_bug_while_encoding_stops_the_build_at_once_and_keeps_its_class(
    listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: str, executor: str
) -> None:
    tried: list[object] = []

    def encode(*args: object, **options: object) -> object:
        tried.append(args)
        return eval(bug)

    monkeypatch.setattr(res3d_video.pipeline.codecs.filmstrip.FilmstripCodec, "encode", encode)
    with pytest.raises(BUGS[bug]):
        if executor == "local":
            build_shards(listing, tmp_path, SETTINGS, workers=1)
        else:
            build_task(listing, tmp_path, SETTINGS, number=1, num_tasks=2, workers=1)
    assert len(tried) <= 4, "nothing is tried again"


def test_the_process_that_reads_videos_runs_the_code_of_this_checkout(tmp_path: Path) -> None:
    words = f"import sys; {THIS_CODE}; import res3d_video.pipeline; print(res3d_video.pipeline.__file__)"
    done = subprocess.run([sys.executable, "-c", words], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == CHECKOUT / "pipeline/__init__.py"
