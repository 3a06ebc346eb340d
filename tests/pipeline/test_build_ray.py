"""Shards made on a Ray cluster: the bytes of one local run, also when a machine is lost."""

import builtins
import errno
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import res3d_video.pipeline.convert.run
from res3d_video.pipeline.convert.plan import ShardTask
from res3d_video.pipeline.convert.run import BuildProgress, build_shards, make_on_ray
from res3d_video.pipeline.convert.shard import Counts, OtherInputsError
from res3d_video.pipeline.datasets import Listing
from res3d_video.pipeline.index import ShardError
from tests.chaos.ledger import wait_until
from tests.pipeline.test_build import contents
from tests.pipeline.test_build_tasks import SETTINGS, listing, local, raw, tasks_of  # noqa: F401 - fixtures


def no_tell(name: str, counts: Counts) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two machines of one core, as far as Ray knows; `.nodes` has their handles. The last test takes the second one."""
    pytest.importorskip("ray", reason='ray is not installed: pip install -c constraints.txt -e ".[ray]"')
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.nodes = [cluster.head_node, cluster.add_node(num_cpus=1)]
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_workers_of_one_cluster_share_the_work_and_report_what_fails(
    cluster: Any,
    listing: Listing,  # noqa: F811
    local: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make = partial(make_on_ray, address=cluster.address)
    build_shards(listing, tmp_path / "out", SETTINGS, workers=1, make=make)
    assert contents(tmp_path / "out") == contents(local)

    tasks = tasks_of(listing)
    for number, attempts in ((errno.EIO, 3), (errno.ENOSPC, 1)):

        def fail(task: ShardTask, *args: Any, number: int = number, log: Path = tmp_path, **options: Any) -> None:
            with open(log / f"{number} {task.name}", "a") as file:
                file.write("tried\n")
            raise OSError(number, "no such luck")

        with monkeypatch.context() as patched:
            patched.setattr(res3d_video.pipeline.convert.run, "make_shard", fail)
            if number == errno.EIO:
                failed = make(tasks[:2], tmp_path / "out", no_tell)
                assert failed == {"few-000000": "no such luck", "few-000001": "no such luck"}
            else:
                with pytest.raises(OSError, match="no such luck"):
                    make(tasks[:1], tmp_path / "out", no_tell)
        tried = [path.read_text() for path in tmp_path.glob(f"{number} *")]
        assert set(tried) == {"tried\n" * attempts}

    with monkeypatch.context() as patched:
        patched.setattr(res3d_video.pipeline.convert.run, "make_shard", lambda *args, **options: len(1))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="(?s)Traceback|ray::.*has no len"):
            make(tasks[:1], tmp_path / "out", no_tell)

    other = replace(tasks[0], inputs="of another machine")
    with pytest.raises(OtherInputsError, match="few-000000: .* sees other videos"):
        make([other, *tasks[1:]], tmp_path / "out", no_tell)


@pytest.mark.slow
def test_a_machine_lost_in_the_middle_loses_and_doubles_nothing(
    cluster: Any,
    listing: Listing,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = replace(SETTINGS, samples_per_shard=1)
    build_shards(listing, tmp_path / "local", settings, workers=2)
    doomed, in_work = cluster.nodes[1].node_id, tmp_path / "in work"
    told: list[BuildProgress] = []
    reasons: list[str] = []
    real, real_make = res3d_video.pipeline.convert.run.failure, res3d_video.pipeline.convert.run.make_shard

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

    def report(progress: BuildProgress) -> None:
        if not told:  # one shard is finished here
            wait_until(in_work.exists, "a tar is made on the other machine")
            cluster.remove_node(cluster.nodes[1], allow_graceful=False)
        told.append(progress)

    monkeypatch.setattr(res3d_video.pipeline.convert.run, "failure", failure)
    monkeypatch.setattr(res3d_video.pipeline.convert.run, "make_shard", make_shard)
    make = partial(make_on_ray, address=cluster.address)
    result = build_shards(listing, tmp_path / "out", settings, workers=1, report=report, make=make)
    assert any("its worker died" in reason for reason in reasons)
    assert (result.num_shards_written, result.num_samples, result.num_quarantined) == (9, 8, 1)
    assert (told[-1].num_done, told[-1].num_total, told[-1].num_shards, told[-1].num_failed) == (9, 9, 9, 1)
    assert contents(tmp_path / "out") == contents(tmp_path / "local")


def test_without_ray_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_ray(name: str, *rest: Any) -> Any:
        if name == "ray":
            raise ImportError
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_ray)
    with pytest.raises(ShardError, match=re.escape('ray is not installed; pip install "res3d-video[ray]" on all')):
        make_on_ray([], tmp_path, no_tell, address="auto")


@pytest.mark.parametrize("bug", [TypeError(), AttributeError(), NameError(), KeyError(), ImportError(), ValueError()])
def test_a_bug_on_a_worker_is_raised_as_ray_has_it_and_not_tried_again(bug: Exception) -> None:
    class RayTaskError(Exception):
        cause = bug

    with pytest.raises(RayTaskError):
        res3d_video.pipeline.convert.run.failure(RayTaskError("with the worker's traceback"))
