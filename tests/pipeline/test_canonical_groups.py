"""Nodes that share canonical groups: each fetches its share from a real S3 server, and all see one order."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.loader import Batch, ClipLoader
from res3d_video.pipeline.plan import EvalPlan, TrainPlan
from res3d_video.pipeline.remote import RemoteSettings, open_remote
from tests.clips import same, take
from tests.s3_server import S3Server
from tests.until import until
from tests.warm import Warm, run_warm

NUM_TARS, PER_TAR, BATCH = 203, 4, 16
STEPS = NUM_TARS * PER_TAR // BATCH  # whole ones of an epoch


def repeated(index: ShardIndex, folder: Path) -> ShardIndex:
    """A dataset of many tars: the first one of another, again and again; all its samples are for training."""
    (folder / "index").mkdir(parents=True)
    shard, rows = index.info["shards"][0], np.tile(np.arange(PER_TAR), NUM_TARS)
    for number in range(NUM_TARS):
        shutil.copyfile(index.data_dir / shard["tar"], folder / f"many-{number:06d}.tar")
    own = index.frames[: index.first_frame[PER_TAR]]
    arrays = {
        "key": np.array([b"%08d" % n for n in range(len(rows))]),
        "split": np.ones((len(rows), 1), np.int8),
        "tar": np.repeat(np.arange(NUM_TARS, dtype=np.int32), PER_TAR),
        "first_frame": np.append(0, np.cumsum(index.num_frames[rows], dtype=np.int64)),
        "frames": np.tile(own, (NUM_TARS, 1)),
        "source": index.sources[rows], "group": index.groups[rows], "label": index.labels[rows],
        "num_frames": index.num_frames[rows], "content": index.content[rows], "offset": index.offset[rows],
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(folder / f"index/{name}.npy", array)
    shards = [shard | {"tar": f"many-{number:06d}.tar"} for number in range(NUM_TARS)]
    counts = {"num_samples": len(rows), "num_frames": len(arrays["frames"]), "split_names": ["1"]}
    info = index.info | counts | {"name": "many", "shards": shards, "splits": {"1": {"train": len(rows), "test": 0}}}
    (folder / "dataset.json").write_text(json.dumps(info))
    return open_index(folder)


@pytest.fixture(scope="module")
def many(numbered: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return repeated(numbered, tmp_path_factory.mktemp("many") / "many")


@pytest.fixture(scope="module")
def url(many: ShardIndex, s3: S3Server) -> str:
    s3.put(many.data_dir, "many")
    return "s3://shards/many"


def plan_of(index: ShardIndex, *, groups: int = 64, window: int | None = None) -> TrainPlan:
    how = {"global_batch_size": BATCH, "canonical_groups": groups, "shuffle_window": window}
    return TrainPlan(index, index.samples_of("1", "train"), ClipSpec(2, 2, 64), seed=0, **how)


def node(index: ShardIndex, rank: int = 0, of: int = 1, *, count: int = STEPS, **plan: int) -> list[Batch]:
    """What one of several nodes, with a process each, gets in an epoch."""
    with ClipLoader(index, plan_of(index, **plan), rank=rank, world_size=of) as loader:
        return take(loader, count)


def digest(batch: Batch) -> str:
    return hashlib.sha256(batch.clips.numpy().tobytes() + batch.samples.tobytes()).hexdigest()


def test_nodes_fetch_their_share_and_together_have_the_batches_of_one_process(
    url: str, many: ShardIndex, s3: S3Server, tmp_path: Path
) -> None:
    whole, total = node(many), sum(shard["num_bytes"] for shard in many.info["shards"])
    for num_nodes in (1, 2, 4, 8):
        parts = []
        for rank in range(num_nodes):
            cache = tmp_path / f"{num_nodes}-{rank}"
            index = open_remote(url, RemoteSettings(cache=cache, fetch_ahead=8))
            s3.forget_requests()
            opened = index.store.bytes_fetched
            parts.append(node(index, rank, num_nodes))
            fetched, asked = index.store.bytes_fetched - opened, s3.requests("GET", ".tar")
            assert fetched == len(asked) * total // NUM_TARS
            assert len(asked) == len(set(asked)), "no tar is fetched twice"
            assert abs(fetched / (total / num_nodes) - 1) <= 0.1
            works = [batch.work for batch in parts[-1]]
            assert sum(work.num_cache_hits for work in works) > sum(work.num_cache_misses for work in works)
            shutil.rmtree(cache)
        for step, batch in enumerate(whole):
            assert np.array_equal(np.concatenate([part[step].samples for part in parts]), batch.samples)
            assert np.array_equal(np.concatenate([part[step].clips.numpy() for part in parts]), batch.clips.numpy())


def test_a_cache_of_a_few_windows_is_filled_along_them_and_emptied_behind_them(
    url: str, many: ShardIndex, s3: S3Server, tmp_path: Path
) -> None:
    limit = 40 * many.info["shards"][0]["num_bytes"]
    index = open_remote(url, RemoteSettings(cache=tmp_path, fetch_ahead=2, limit_bytes=limit))
    s3.forget_requests()
    how = {"groups": 8, "window": 2, "count": STEPS - 8}  # the loader is not yet at the next epoch
    found = node(index, 1, 2, **how)  # four groups of 25 tars, three of each are open at most
    assert all(same(*pair) for pair in zip(found, node(many, 1, 2, **how), strict=True))
    asked = s3.requests("GET", ".tar")
    assert len(set(asked)) > 2 * 40
    assert len(asked) - len(set(asked)) <= 3, "but those on a cut between two of its four groups, each once"
    assert len(list(index.data_dir.glob("*.tar"))) <= 40


NODE = """
import sys
from pathlib import Path
from res3d_video.pipeline.remote import RemoteSettings, open_remote
from tests.pipeline.test_canonical_groups import BATCH, STEPS, ClipLoader, digest, plan_of
url, cache, log, begin = sys.argv[1:]
index = open_remote(url, RemoteSettings(cache=Path(cache), fetch_ahead=2))
with ClipLoader(index, plan_of(index), rank=2, world_size=4) as loader, open(log, "a", buffering=1) as lines:
    loader.load_state_dict(loader.state_dict() | {"position": int(begin) * BATCH})
    for _, batch in zip(range(int(begin), STEPS), loader):
        print(digest(batch), file=lines)
"""


def test_a_node_that_is_killed_goes_on_where_it_was_and_fetches_nothing_again(
    url: str, many: ShardIndex, s3: S3Server, tmp_path: Path
) -> None:
    expected = [digest(batch) for batch in node(many, 2, 4)]
    script, cache, log = tmp_path / "node.py", tmp_path / "cache", tmp_path / "log"
    script.write_text(NODE)
    command = [sys.executable, str(script), url, str(cache), str(log)]
    first = Warm([*command, "0"])
    until(lambda: log.exists() and log.read_text().count("\n") >= 10)
    first.kill()
    first.wait(30)
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:10]))
    there = {path.name for path in cache.rglob("many-*.tar")}
    s3.forget_requests()
    done = run_warm([*command, "10"])
    assert done.returncode == 0, done.stderr
    assert log.read_text().split() == expected
    assert there
    assert not there & {path.split("/")[-1] for path in s3.requests("GET", ".tar")}


def test_an_evaluation_reads_parts_of_tars_in_few_requests_and_keeps_none(
    url: str, many: ShardIndex, s3: S3Server, tmp_path: Path
) -> None:
    def scored(index: ShardIndex) -> list[Batch]:
        plan = EvalPlan(index, np.arange(0, 400, 5), ClipSpec(2, 2, 64), global_batch_size=20, num_views=2)
        with ClipLoader(index, plan) as loader:
            return list(loader)

    index = open_remote(url, RemoteSettings(cache=tmp_path))
    s3.forget_requests()
    opened = index.store.bytes_fetched
    assert all(same(*pair) for pair in zip(scored(index), scored(many), strict=True))
    asked = s3.requests("GET", ".tar")
    assert len(asked) == 80, "one for both views of a sample"
    assert index.store.bytes_fetched - opened < 80 * many.info["shards"][0]["num_bytes"] / 4
    assert not list(index.data_dir.glob("*.tar"))
    for tar in {number for number in many.tar_of(np.arange(0, 400, 5)).tolist() if number % 2}:
        index.store.ensure(tar)
    s3.forget_requests()
    assert all(same(*pair) for pair in zip(scored(index), scored(many), strict=True))
    assert 0 < len(s3.requests("GET", ".tar")) <= 40, "none of the tars that are here"
