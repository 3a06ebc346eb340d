"""Datasets on a real S3 server: the same batches as from their folder, each tar fetched once, outages waited out."""

import json
import shutil
import stat
import threading
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.index import ShardError, ShardIndex, open_index
from res3d_video.pipeline.loader import ClipLoader, LoaderError
from res3d_video.pipeline.plan import EvalPlan
from res3d_video.pipeline.reader import StepReader
from res3d_video.pipeline.remote import RemoteSettings, open_remote
from res3d_video.pipeline.remote_store import RemoteError, RemoteStore
from tests.clips import same, take, train_plan
from tests.s3_server import S3Server, s3_server
from tests.until import until


def settings(cache: Path, **changes: object) -> RemoteSettings:
    return RemoteSettings(cache=cache, **{"timeout_s": 30.0, "fetch_ahead": 2} | changes)


def upload(index: ShardIndex, name: str, server: S3Server) -> str:
    """Put a dataset into the server's bucket by hand, without our own way of doing it; its URL."""
    client = pytest.importorskip("boto3").client("s3", endpoint_url=server.endpoint)
    for path in filter(Path.is_file, index.data_dir.rglob("*")):
        client.upload_file(str(path), "shards", f"{name}/{path.relative_to(index.data_dir).as_posix()}")
    return f"s3://shards/{name}"


def batches(index: ShardIndex, count: int = 4, **plan: object) -> tuple[list, ClipLoader]:
    with ClipLoader(index, train_plan(index, global_batch_size=6, **plan)) as loader:
        return take(loader, count), loader


def all_same(a: list, b: list) -> bool:
    return len(a) == len(b) and all(same(*pair) for pair in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def url(numbered: ShardIndex, s3: S3Server) -> str:
    return upload(numbered, "numbered", s3)


@pytest.fixture
def there(numbered: ShardIndex, tmp_path: Path) -> Path:
    """A copy that a test may spoil, behind a file:// URL, which needs no server, or in a bucket."""
    return shutil.copytree(numbered.data_dir, tmp_path / "bucket/set")


def test_batches_are_those_of_the_folder_and_a_warm_cache_reads_nothing(
    url: str, numbered: ShardIndex, s3: S3Server, tmp_path: Path
) -> None:
    expected, _ = batches(numbered)
    s3.forget_requests()
    index = open_remote(url, settings(tmp_path / "cache"))
    assert index.fingerprint == numbered.fingerprint
    assert all_same(batches(index)[0], expected)
    assert [len(s3.requests("GET", tar)) for tar in numbered.tars] == [1] * len(numbered.tars), "each at once"
    assert len(s3.requests("GET", "dataset.json")) == 2, "before the arrays and after them"

    s3.forget_requests()
    again = open_remote(url, settings(tmp_path / "cache"))
    assert all_same(batches(again)[0], expected)
    assert [path.split("/")[-1] for path in s3.requests("GET")] == ["dataset.json"], "it may be another now"

    folders = [tmp_path / "cache", *filter(Path.is_dir, (tmp_path / "cache").rglob("*"))]
    assert [stat.S_IMODE(path.stat().st_mode) for path in folders] == [0o700] * 4, "for their owner alone"
    local = open_index(index.data_dir)
    assert local.store is None
    assert all_same(batches(local)[0], expected), "the folder in the cache is a dataset itself"


def test_a_cache_smaller_than_the_data_says_so_once_and_changes_nothing(
    url: str, numbered: ShardIndex, s3: S3Server, tmp_path: Path
) -> None:
    largest = max(shard["num_bytes"] for shard in numbered.info["shards"])
    said: list[str] = []
    s3.forget_requests()
    index = open_remote(url, settings(tmp_path, limit_bytes=largest), say=said.append)
    assert all_same(batches(index, 6)[0], batches(numbered, 6)[0])
    assert ["tars are fetched again" in line and "--cache-limit" in line for line in said] == [True]
    assert len(s3.requests("GET", ".tar")) > len(numbered.tars)
    left = sum(path.stat().st_size for path in index.data_dir.glob("*.tar"))
    assert left <= 2 * largest, "what was in use at one moment may go beyond the limit"


def test_a_new_dataset_at_the_same_url_is_noticed_and_h264_is_read_in_the_same_way(
    numbered: ShardIndex, numbered_h264: ShardIndex, s3: S3Server, tmp_path: Path
) -> None:
    url = upload(numbered, "changing", s3)
    first = open_remote(url, settings(tmp_path))
    upload(numbered_h264, "changing", s3)
    second = open_remote(url, settings(tmp_path))
    assert (first.codec, second.codec) == ("filmstrip", "h264")
    assert first.data_dir != second.data_dir
    assert all_same(batches(second, 2)[0], batches(numbered_h264, 2)[0])


def test_a_wrong_tar_is_fetched_twice_a_missing_one_not_and_their_samples_are_replaced(
    numbered: ShardIndex, there: Path, s3: S3Server, tmp_path: Path
) -> None:
    (there / numbered.tars[0]).unlink()
    tar = there / numbered.tars[1]
    content = bytearray(tar.read_bytes())
    tar.unlink()
    expected, missing = batches(open_index(there))
    content[len(content) // 2] ^= 1
    tar.write_bytes(content)
    url = upload(open_index(there), "damaged", s3)

    s3.forget_requests()
    said: list[str] = []
    index = open_remote(url, settings(tmp_path / "cache", fetch_ahead=0), say=said.append)
    found, loader = batches(index)
    assert all_same(found, expected), "as if those tars were missing from a local folder"
    assert (loader.num_replaced, loader.bad_samples) == (missing.num_replaced, missing.bad_samples)
    assert loader.num_replaced > 0
    assert len(s3.requests("GET", numbered.tars[1])) == 2
    gone, wrong = sorted(said)
    assert f"{url}/{numbered.tars[0]}: is not there" in gone
    assert f"{url}/{numbered.tars[1]}: its sha256 is not the listed one" in wrong
    assert not list(index.data_dir.glob(numbered.tars[1]))


def test_parts_that_arrive_damaged_are_asked_for_once_more(
    url: str, numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_range, num_bad = RemoteStore.read_range, 1

    def damaged(self: RemoteStore, *args: object, **stop: threading.Event) -> bytes:
        nonlocal num_bad
        content, num_bad = read_range(self, *args, **stop), num_bad - 1
        return content if num_bad < 0 else bytes(len(content))

    monkeypatch.setattr(RemoteStore, "read_range", damaged)
    index = open_remote(url, settings(tmp_path))
    plan = EvalPlan(index, np.arange(4), ClipSpec(4, 2), global_batch_size=4)
    for bad, weights in ((1, [1] * 4), (10**9, [0] * 4)):
        num_bad = bad
        with ClipLoader(index, plan) as loader:
            (batch,) = loader
        assert batch.weights.tolist() == weights


def test_a_server_that_comes_back_is_waited_for_but_not_for_ever(
    numbered: ShardIndex, there: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    found: list = []
    expected, _ = batches(numbered)
    with s3_server(there.parent) as server:
        index = open_remote("s3://shards/set", settings(tmp_path / "cache", fetch_ahead=0), say=said.append)
        hasty = open_remote("s3://shards/set", settings(tmp_path / "hasty", timeout_s=0.5))
        server.stop()
        with pytest.raises(LoaderError, match=r"s3://shards/set/numbered-\d+\.tar: no answer for 0 s .*--remote-time"):
            batches(hasty)
        with pytest.raises(RemoteError, match="dataset.json: no answer"):
            open_remote("s3://shards/set", settings(tmp_path / "hasty", timeout_s=0.2))
        thread = threading.Thread(target=lambda: found.extend(batches(index)[0]))
        thread.start()
        until(lambda: said)
        assert found == []
        server.start()
        thread.join(30)
    assert all_same(found, expected)
    assert ["no answer" in line and "trying again for up to 30 s" in line for line in said] == [True]


def test_a_loader_that_waits_for_a_server_can_be_closed(numbered: ShardIndex, there: Path, tmp_path: Path) -> None:
    said: list[str] = []
    ended: list[str] = []
    patient = settings(tmp_path / "cache", timeout_s=600, fetch_ahead=0)
    with s3_server(there.parent) as server:
        index = open_remote("s3://shards/set", patient, say=said.append)
        server.stop()
        loader = ClipLoader(index, train_plan(index, global_batch_size=6))

        def wait_for_a_batch() -> None:
            with pytest.raises(LoaderError) as error:
                take(loader, 1)
            ended.append(str(error.value))

        taker = threading.Thread(target=wait_for_a_batch, daemon=True)
        taker.start()
        until(lambda: said)
        closer = threading.Thread(target=loader.close, daemon=True)
        closer.start()
        closer.join(10)
        assert not closer.is_alive()
        taker.join(10)
        assert ended == ["the loader was closed while a batch was waited for"]
        server.start()
        assert all_same(take(loader, 2), batches(numbered, 2)[0]), "and it can be iterated again"
        loader.close()


def test_what_is_not_there_gets_one_line(s3: S3Server, tmp_path: Path) -> None:
    for url in ("s3://shards/nothing", "s3://nobucket/x"):
        with pytest.raises(ShardError, match=f"^{url}: no dataset.json, so no finished shards.*$"):
            open_remote(url, settings(tmp_path))


@pytest.mark.parametrize("name", ["../evil.tar", "/etc/evil.tar", ".hidden.tar", "a/b.tar", "x.tar.gz", "", 5])
def test_names_of_tars_never_leave_the_cache(name: object, there: Path, tmp_path: Path) -> None:
    info = json.loads((there / "dataset.json").read_text())
    info["shards"][0]["tar"] = name
    (there / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(ShardError, match="it must be the plain name of a tar|shards.0..tar: expected `str`"):
        open_remote(f"file://{there}", settings(tmp_path / "cache"))


def test_a_loader_that_waits_for_its_server_is_not_taken_for_a_stalled_one(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = open_remote(f"file://{there}", settings(tmp_path / "cache", fetch_ahead=0))
    answers, asked, pieces = threading.Event(), threading.Event(), RemoteStore._pieces

    def slow(self: RemoteStore, name: str, **at_most: int) -> object:
        asked.set()
        assert answers.wait(30)
        return pieces(self, name, **at_most)

    monkeypatch.setattr(RemoteStore, "_pieces", slow)
    reader = StepReader(index, train_plan(index, global_batch_size=6), rows=slice(0, 6))
    thread = threading.Thread(target=reader.read, args=(0,), daemon=True)
    thread.start()
    assert asked.wait(30)
    assert reader.whereabouts() is None, "the server has a time limit of its own"
    answers.set()
    thread.join(30)
    assert reader.whereabouts() == "decoding, after reading step 0"


def test_an_index_that_was_damaged_and_is_mended_is_fetched_anew(
    numbered: ShardIndex, there: Path, tmp_path: Path
) -> None:
    path = there / "index/label.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-4] + b"\xff\xff\xff\x7f")
    with pytest.raises(RemoteError, match=rf"^file://{there}: .*label.npy: has .* 2147483647"):
        open_remote(f"file://{there}", settings(tmp_path / "cache"))
    path.write_bytes(content)
    assert open_remote(f"file://{there}", settings(tmp_path / "cache")).num_samples == numbered.num_samples


def test_a_dataset_that_changes_while_it_is_opened_is_refused(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, download_to = there / "dataset.json", RemoteStore.download_to

    def meanwhile(self: RemoteStore, *name: object, **more: object) -> str:
        path.write_bytes(path.read_bytes() + b"\n")
        return download_to(self, *name, **more)

    monkeypatch.setattr(RemoteStore, "download_to", meanwhile)
    with pytest.raises(RemoteError, match="changes while it is read; wait until it is finished"):
        open_remote(f"file://{there}", settings(tmp_path / "cache"))
    assert not list((tmp_path / "cache").rglob("dataset.json"))
