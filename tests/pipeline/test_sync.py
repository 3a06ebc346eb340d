"""A dataset is copied whole, checked, once; whoever looks meanwhile finds no dataset there."""

import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import fsspec
import pytest

from res3d_video.pipeline.index import ShardError, ShardIndex, open_index
from res3d_video.pipeline.remote import RemoteSettings, open_remote
from res3d_video.pipeline.remote_store import RemoteError, RemoteStore
from res3d_video.pipeline.shard_writer import sha256_of
from res3d_video.pipeline.sync import sync_dataset
from res3d_video.pipeline.verify import verify
from tests.s3_server import S3Server
from tests.until import until

MEMORY = fsspec.filesystem("memory")


def readable(folder: Path) -> dict[str, bytes]:
    """What readers need of a dataset."""
    skipped = ("parts/", ".lock", "checksums.json")
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return {name: (folder / name).read_bytes() for name in names if not name.startswith(skipped)}


def test_there_and_back_again_is_the_same_dataset(numbered: ShardIndex, s3: S3Server, tmp_path: Path) -> None:
    url = "s3://shards/there"
    assert sync_dataset(numbered.data_dir, url).num_copied == len(readable(numbered.data_dir))
    assert sync_dataset(url, tmp_path / "back").num_copied == len(readable(numbered.data_dir))
    assert readable(tmp_path / "back") == readable(numbered.data_dir)
    assert verify(tmp_path / "back", decode=True)[1] == []
    assert not list((tmp_path / "back").glob(".sync-*"))
    s3.forget_requests()
    assert sync_dataset(numbered.data_dir, url).num_copied == 0
    assert s3.requests("PUT") == s3.requests("DELETE") == []


def test_a_remote_dataset_is_checked_as_a_local_one_is(numbered: ShardIndex, s3: S3Server, tmp_path: Path) -> None:
    sync_dataset(numbered.data_dir, "s3://shards/checked")
    store = RemoteStore("s3://shards/checked")
    store.remove(numbered.tars[0].replace(".tar", ".idx"))
    (tmp_path / "no tar").write_bytes(b"no tar")
    store.upload(tmp_path / "no tar", numbered.tars[1])
    _, faults = verify(open_remote("s3://shards/checked", RemoteSettings(cache=tmp_path / "cache")), decode=True)
    said = [fault.split(": ", 1)[1] for fault in faults]
    assert said == ["missing", "its sha256 is not the listed one; run tools/check_shards.py"]


def test_only_what_changed_is_copied_and_dataset_json_is_gone_meanwhile(
    numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "memory://copies/changed"
    sync_dataset(numbered.data_dir, url)
    changed = shutil.copytree(numbered.data_dir, tmp_path / "changed")
    info = json.loads((changed / "dataset.json").read_text())
    tar = changed / info["shards"][2]["tar"]
    tar.write_bytes(b"another tar")
    with pytest.raises(ShardError, match=r"000002.tar: is missing or cut short; run tools/check_shards.py"):
        sync_dataset(changed, url)
    assert "dataset.json" in RemoteStore(url).sizes(), "nothing was touched"
    info["shards"][2] |= {"num_bytes": 11, "sha256": "0" * 64}
    (changed / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(ShardError, match=r"000002.tar: its sha256 is not the listed one; run tools/check_shards.py"):
        sync_dataset(changed, url)
    assert "dataset.json" not in RemoteStore(url).sizes(), "it is written last"

    info["shards"][2]["sha256"] = sha256_of(tar)
    (changed / "dataset.json").write_text(json.dumps(info))
    seen, upload = [], RemoteStore.upload

    def watched(self: RemoteStore, source: Path, name: str, **stop: threading.Event) -> None:
        seen.append((name, "dataset.json" in self.sizes()))
        upload(self, source, name, **stop)

    monkeypatch.setattr(RemoteStore, "upload", watched)
    result = sync_dataset(changed, url)
    assert seen == [(name, False) for name in (tar.name, "checksums.json", "checksums.json", "dataset.json")]
    assert (result.num_copied, result.num_bytes_copied) == (2, 11)
    assert json.loads(MEMORY.cat_file("/copies/changed/dataset.json")) == info


def test_a_copy_that_was_killed_goes_on_where_it_was(
    numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, upload = tmp_path / "to", RemoteStore.upload

    def killed(self: RemoteStore, source: Path, name: str, **stop: threading.Event) -> None:
        if name == numbered.tars[2]:
            until((to / "checksums.json").exists)
            raise KeyboardInterrupt
        upload(self, source, name, **stop)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteStore, "upload", killed)
        with pytest.raises(KeyboardInterrupt):
            sync_dataset(numbered.data_dir, to, workers=1)
    with pytest.raises(ShardError, match="no dataset.json, so no finished shards"):
        open_index(to)
    (to / ".sync-killed").mkdir()
    (to / ".sync-killed" / "part.tar").write_bytes(b"part")
    assert sync_dataset(numbered.data_dir, to, workers=1).num_kept > 0
    assert not list(to.glob(".sync-*"))
    assert readable(to) == readable(numbered.data_dir)


def test_arrays_that_were_changed_on_the_server_are_not_opened(numbered: ShardIndex, tmp_path: Path) -> None:
    url = "memory://copies/arrays"
    sync_dataset(numbered.data_dir, url)
    content = bytearray(MEMORY.cat_file("/copies/arrays/index/label.npy"))
    content[-1] ^= 1
    MEMORY.pipe_file("/copies/arrays/index/label.npy", bytes(content))
    with pytest.raises(ShardError, match=r"label.npy: its sha256 is not the listed one; run tools/check_shards.py"):
        open_remote(url, RemoteSettings(cache=tmp_path))


def test_what_cannot_be_copied_gets_one_line(numbered: ShardIndex, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no finished shards to copy"):
        sync_dataset(tmp_path, tmp_path / "to")
    with pytest.raises(ShardError, match="is the source itself"):
        sync_dataset(numbered.data_dir, f"file://{numbered.data_dir}")


@pytest.mark.parametrize("side", ["source", "destination"])
def test_the_server_that_fails_is_the_one_that_is_named(
    numbered: ShardIndex, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = {name: f"memory://{side}/{name}" for name in ("source", "destination")}
    sync_dataset(numbered.data_dir, urls["source"])
    ask, gone, num_asked = RemoteStore._ask, Mock(side_effect=ConnectionResetError("gone")), Counter()

    def failing(self: RemoteStore, request: Callable, *about: object, **more: object) -> object:
        num_asked[self.url] += 1
        return ask(self, gone if self.url == urls[side] and num_asked[self.url] > 5 else request, *about, **more)

    monkeypatch.setattr(RemoteStore, "_ask", failing)
    with pytest.raises(RemoteError, match=rf"^{urls[side]}/\S+: no answer for 0 s \(ConnectionResetError: gone\)"):
        sync_dataset(urls["source"], urls["destination"], timeout_s=0.01)


def test_a_list_at_the_destination_that_is_none_is_written_anew(numbered: ShardIndex, tmp_path: Path) -> None:
    texts = ("[]", '{"files": 5}', '{"files": {"dataset.json": null}}', "[" * 10**5, '{"files": {"a": 5}}')
    for number, text in enumerate(texts):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}/checksums.json").write_text(text)
        assert sync_dataset(numbered.data_dir, tmp_path / f"{number}").num_kept == 0
