"""Shards made by processes that know nothing of each other: the bytes of one local run, whatever happens to them."""

import errno
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psutil
import pytest

from res3d_video.pipeline.codecs.filmstrip import FilmstripCodec
from res3d_video.pipeline.convert import run, shard
from res3d_video.pipeline.convert.plan import ShardTask, plan_build
from res3d_video.pipeline.convert.run import build_shards, make_on_ray
from res3d_video.pipeline.convert.samples import Converted, convert
from res3d_video.pipeline.convert.shard import Counts, OtherInputsError, clean, make_shard, only_builder, write_shard
from res3d_video.pipeline.datasets import Listing
from res3d_video.pipeline.index import ShardError
from res3d_video.pipeline.ingest import inspector as inspecting
from res3d_video.pipeline.ingest.inspector import THIS_CODE, Inspector
from res3d_video.pipeline.remote_store import RemoteError, RemoteStore
from tests.pipeline.conftest import SETTINGS, write_few_videos
from tests.pipeline.test_build import contents, stamps
from tests.pipeline.test_build_at_url import stored
from tests.s3_server import S3Server
from tests.until import until

CHECKOUT = Path(__file__).resolve().parents[2]
NUM_SHARDS = 5
FAILING = "class1/v3.mp4"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight short videos and one that cannot be read: five shards."""
    raw = tmp_path_factory.mktemp("raw")
    write_few_videos(raw, 8, broken=1)
    return raw


def tasks_of(listing: Listing) -> list[ShardTask]:
    with Inspector() as inspector, ThreadPoolExecutor(1) as pool:
        return plan_build(listing, SETTINGS, pool, limit=None, inspector=inspector, report=lambda *counts: None)[1]


def started(raw: Path, out: Path, task: str | None = None) -> subprocess.Popen[str]:
    settings = "--test-fraction 0.25 --size 32 --samples-per-shard 2 --no-keep-aspect --workers 1 --json --quiet"
    words = f"tools/make_shards.py folder --raw {raw} --out {out} --name few {settings}"
    words += f" --task {task}" if task else ""
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, *words.split()], cwd=CHECKOUT, text=True, start_new_session=True, **pipes)


def test_tasks_in_any_order_give_the_bytes_of_one_run_and_do_nothing_twice(
    listing: Listing, local: Path, tmp_path: Path
) -> None:
    build = partial(build_shards, listing, tmp_path, SETTINGS, workers=2)
    results = [build(task=(number, 3)) for number in (3, 1, 2)]
    assert [result.is_whole for result in results] == [False, False, True]
    assert sum(result.num_shards_written for result in results) == NUM_SHARDS
    assert contents(tmp_path) == contents(local)
    before = stamps(tmp_path)
    for number in (3, 1, 2):
        result = build(task=(number, 3))
        assert (result.num_shards_written, result.num_shards_there, result.num_samples) == (0, NUM_SHARDS, 8)
    assert stamps(tmp_path) == before


def test_processes_that_make_some_shards_twice_and_write_the_index_at_once_give_the_bytes_of_one_run(
    raw: Path, local: Path, tmp_path: Path
) -> None:
    for tasks in (("1/2", "2/2", "1/1"), ("1/1", "1/1", "1/1")):  # the second time, only the index is to be written
        processes = [started(raw, tmp_path, task) for task in tasks]
        printed = [(*process.communicate(timeout=100), process.returncode) for process in processes]
        assert [(err, code) for _, err, code in printed] == [("", 0)] * 3
        assert any(json.loads(out)["num_samples"] == 8 for out, _, _ in printed)
        assert contents(tmp_path) == contents(local)
        shutil.rmtree(tmp_path / "index")
        (tmp_path / "dataset.json").unlink()


@pytest.mark.parametrize("task", [None, "1/2"])
def test_what_was_killed_in_the_middle_goes_on_to_the_same_bytes(
    raw: Path, listing: Listing, local: Path, tmp_path: Path, task: str | None
) -> None:
    process = started(raw, tmp_path, task)
    until(lambda: process.poll() is not None or list(tmp_path.glob(".few-*.tar.*.tmp")))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "killed too late to be a test"
    if task:
        assert not build_shards(listing, tmp_path, SETTINGS, workers=2, task=(2, 2)).is_whole
    assert build_shards(listing, tmp_path, SETTINGS, workers=2, task=(1, 2) if task else None).is_whole
    assert contents(tmp_path) == contents(local)


def test_tasks_let_each_other_in_but_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with only_builder(tmp_path, shared=True), only_builder(tmp_path, shared=True):
        pass
    for shared in (False, True):
        with (
            only_builder(tmp_path, shared=not shared),
            pytest.raises(ShardError, match="another build is writing here"),
            only_builder(tmp_path, shared=shared),
        ):
            pass
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    with only_builder(tmp_path), only_builder(tmp_path):
        pass


def test_a_task_that_has_travelled_is_the_same_and_a_machine_that_sees_other_videos_makes_nothing(
    listing: Listing, local: Path, tmp_path: Path
) -> None:
    task = tasks_of(listing)[0]
    elsewhere = replace(task, records=tuple(replace(r, raw=Path("/nowhere")) for r in task.records))
    with pytest.raises(OtherInputsError, match="few-000000: .* sees other videos or has other versions"):
        make_shard(elsewhere, tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "parts").mkdir()
    assert make_shard(pickle.loads(pickle.dumps(task)), tmp_path)["videos"] == len(task.records)
    assert (tmp_path / f"{task.name}.tar").read_bytes() == (local / f"{task.name}.tar").read_bytes()


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

    counts = write_shard(task, converted(task, finish_elsewhere), tmp_path)
    assert counts == shard.counts_of_finished(task, tmp_path)
    assert contents(tmp_path) == contents(local)


def test_a_shard_that_another_process_makes_otherwise_at_the_same_time_counts_as_not_made(
    listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as on a machine so slow that a video there exceeds its time."""
    task = tasks_of(listing)[1]
    write = shard.write_atomically

    def write_part(path: Path, data: bytes) -> bool:
        (tmp_path / "other").write_bytes(b"another tar")
        (tmp_path / "other").replace(tmp_path / f"{task.name}.tar")
        return write(path, data)

    monkeypatch.setattr(shard, "write_atomically", write_part)
    with pytest.raises(ShardError, match="few-000001: another process has made it at the same time"):
        write_shard(task, converted(task, lambda: None), tmp_path)
    assert not (tmp_path / "parts" / f"{task.name}.json").exists()


def test_beside_others_only_tars_and_old_files_are_cleaned_away(tmp_path: Path) -> None:
    index = [".label.npy.t-1.tmp", ".dataset.json.t-1.tmp", "kept.tar"]
    for name in [".a.b-000000.tar.t-1.tmp", ".a.b-000000.idx.t-1.tmp", ".old.npy.t-2.tmp", *index]:
        (tmp_path / name).touch()
    os.utime(tmp_path / ".old.npy.t-2.tmp", (0, 0))
    for alone, left in ((False, set(index)), (True, {"kept.tar"})):
        clean(tmp_path, alone=alone)
        assert {p.name for p in tmp_path.iterdir()} == left


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, *, times: int) -> list[str]:
    """Make the conversion of one video fail so often; the sources that were tried."""
    tried: list[str] = []

    def convert_or_fail(task: ShardTask, place: int, inspector: Inspector) -> Converted:
        tried.append(task.records[place].source)
        if tried[-1] == FAILING and tried.count(FAILING) <= times:
            raise error
        return convert(task, place, inspector)

    monkeypatch.setattr(shard, "convert", convert_or_fail)
    return tried


def test_a_shard_is_tried_three_times_then_named_and_the_others_are_made(
    listing: Listing, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(task.name for task in tasks_of(listing) if "v3.mp4" in str(task.records))
    tried = failing(monkeypatch, OSError(errno.EIO, "no such\nluck"), times=5)
    with pytest.raises(ShardError, match=rf"1 shards failed 3 times, 4 others were made: {name} \(no such luck\); the"):
        build_shards(listing, tmp_path, SETTINGS, workers=2)
    assert tried.count(FAILING) == 3
    report = Mock()
    assert build_shards(listing, tmp_path, SETTINGS, workers=2, report=report).num_shards_kept == 4
    report.assert_called_with(9, 9, failed=1)
    assert contents(tmp_path) == contents(local), "the sixth time it went well"


def test_a_full_disk_ends_a_build_at_once(listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = failing(monkeypatch, OSError(errno.ENOSPC, "No space left on device"), times=9)
    with pytest.raises(OSError, match="No space left"):
        build_shards(listing, tmp_path, SETTINGS, workers=1)
    assert tried.count(FAILING) == 1


@pytest.mark.parametrize("keep_aspect", [False, True])  # while planning, too
def test_a_bug_in_the_process_that_reads_videos_is_no_fault_of_a_video(
    listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_aspect: bool
) -> None:
    code = "import res3d_video.pipeline.ingest.inspector as i; i.probe = lambda path, guard: int('a'); i.serve()"
    monkeypatch.setattr(inspecting, "START", code)
    with pytest.raises(RuntimeError, match=r"(?s)class\d/.*Traceback.*ValueError"):
        build_shards(listing, tmp_path, replace(SETTINGS, keep_aspect=keep_aspect), workers=1, limit=2)
    assert not list(tmp_path.glob("parts/*.json"))


def test_a_bug_while_encoding_stops_the_build_at_once_and_keeps_its_class(
    listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Mock(side_effect=TypeError("len of a number"))
    monkeypatch.setattr(FilmstripCodec, "encode", encode)
    with pytest.raises(TypeError, match="len of a number"):
        build_shards(listing, tmp_path, SETTINGS, workers=1)
    assert encode.call_count <= 4, "nothing is tried again"


def test_the_process_that_reads_videos_runs_the_code_of_this_checkout(tmp_path: Path) -> None:
    words = f"import sys; {THIS_CODE}; import res3d_video.pipeline; print(res3d_video.pipeline.__file__)"
    done = subprocess.run([sys.executable, "-c", words], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == CHECKOUT / "pipeline/__init__.py"


def test_without_ray_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it fails
    with pytest.raises(ShardError, match=re.escape('ray is not installed; pip install "res3d-video[ray]" on all')):
        make_on_ray([], tmp_path, Mock(), address="auto")


@pytest.fixture(scope="module")
def cluster(s3: S3Server) -> Iterator[Any]:
    """Two machines of one core, as far as Ray knows. What they started is gone in the end."""
    pytest.importorskip("ray", reason='ray is not installed: pip install -c constraints.txt -e ".[ray]"')
    from ray.cluster_utils import Cluster

    before = psutil.Process().children(recursive=True)
    # Without what serves people, nor workers that no task asks for; a lost machine is noticed soon.
    machine = {"num_cpus": 1, "include_log_monitor": False}
    soon = {"health_check_period_ms": 500, "health_check_failure_threshold": 2, "prestart_worker_first_driver": False}
    head = machine | {"include_dashboard": False, "no_monitor": True, "_system_config": soon}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(**machine)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        processes = {*psutil.Process().children(recursive=True)} - {*before}
        cluster.shutdown()
        left = psutil.wait_procs(list(processes), timeout=30)[1]
    assert not left


@pytest.fixture(scope="module")
def joined(cluster: Any) -> Iterator[Any]:
    """The cluster, with one connection for several calls of `make_on_ray`; each would otherwise start new workers."""
    with run.connected(cluster.address) as ray, pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "connected", lambda address: nullcontext(ray))
        yield cluster


@pytest.mark.slow
@pytest.mark.timeout(100)
def test_workers_upload_their_shards_themselves(
    cluster: Any, listing: Listing, local: Path, s3: S3Server, tmp_path: Path
) -> None:
    store, make = RemoteStore("s3://shards/built/ray"), partial(make_on_ray, address=cluster.address)
    build_shards(listing, tmp_path / "scratch", SETTINGS, workers=1, make=make, store=store)
    assert stored(store.url) == contents(local)
    assert not list((tmp_path / "scratch").glob("*.tar"))


@pytest.mark.slow
@pytest.mark.timeout(100)
def test_workers_of_one_cluster_share_the_work_and_report_what_fails(
    joined: Any, listing: Listing, local: Path, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = partial(make_on_ray, address=joined.address)
    build_shards(listing, tmp_path / "out", SETTINGS, workers=1, make=make)
    assert contents(tmp_path / "out") == contents(local)

    tasks, error, tried = tasks_of(listing), tmp_path / "errno", tmp_path / "tried"

    def fail(task: ShardTask, out: Path) -> Counts:
        with tried.open("a") as file:
            file.write(f"{task.name} ")
        raise OSError(int(error.read_text()), "no such luck")

    monkeypatch.setattr(run, "make_shard", fail)
    error.write_text(str(errno.EIO))
    failed = make(tasks[:2], tmp_path / "out", Mock())
    assert failed == dict.fromkeys(("few-000000", "few-000001"), "no such luck")
    assert sorted(tried.read_text().split()) == ["few-000000"] * 3 + ["few-000001"] * 3
    for text, task, said in ((errno.ENOSPC, 2, "no such luck"), ("x", 3, "(?s)Traceback|ray::.*invalid literal")):
        error.write_text(f"{text}")
        with pytest.raises((OSError, ValueError), match=said):
            make([tasks[task]], tmp_path / "out", Mock())
    assert sorted(tried.read_text().split())[6:] == ["few-000002", "few-000003"], "once each"

    monkeypatch.undo()
    with pytest.raises(OtherInputsError, match="few-000000: .* sees other videos"):
        make([replace(tasks[0], inputs="of another machine"), *tasks[1:]], tmp_path / "out", Mock())
    s3.forget_requests()
    with pytest.raises(RemoteError, match="^s3://nobucket/few-000000.tar: there is no such bucket"):
        make(tasks[:1], RemoteStore("s3://nobucket"), Mock())
    assert len(s3.requests("PUT", ".tar")) == 1, "nothing is tried again"


@pytest.mark.slow
@pytest.mark.timeout(100)
@pytest.mark.parametrize("url", [None, "s3://shards/built/lost"])
def test_a_machine_lost_in_the_middle_loses_and_doubles_nothing(
    joined: Any, listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str | None
) -> None:
    settings = replace(SETTINGS, samples_per_shard=1)
    build_shards(listing, tmp_path / "local", settings, workers=2)
    (node,) = joined.worker_nodes or {joined.add_node(num_cpus=1)}
    doomed, in_work = node.node_id, tmp_path / "in work"
    told, reasons = [], []
    real, real_make = run.failure, run.make_shard

    def make_shard(*args: Any, **options: Any) -> Counts:
        import ray  # on the worker

        counts = real_make(*args, **options)
        if ray.get_runtime_context().get_node_id() == doomed:  # its tars are made, but it dies before it can say so
            in_work.touch()
            threading.Event().wait()
        return counts

    def failure(error: Exception) -> str:
        reasons.append(real(error))
        return reasons[-1]

    def report(*done: int, failed: int) -> None:
        if not told:  # one shard is finished here
            until(in_work.exists, seconds=60)
            joined.remove_node(node, allow_graceful=False)
        told.append((*done, failed))

    monkeypatch.setattr(run, "failure", failure)
    monkeypatch.setattr(run, "make_shard", make_shard)
    make = partial(make_on_ray, address=joined.address)
    store = RemoteStore(url) if url else None
    result = build_shards(listing, tmp_path / "out", settings, workers=1, report=report, make=make, store=store)
    assert any("its worker died" in reason for reason in reasons)
    assert (result.num_shards_written, result.num_samples, result.num_quarantined) == (9, 8, 1)
    assert told[-1] == (9, 9, 1)
    assert (stored(url) if url else contents(tmp_path / "out")) == contents(tmp_path / "local")
