"""Shards built straight into an object store: the bytes of a local build, whatever happens to builder and server."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import s3fs

from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import BuildResult, build_shards
from res3d_video.pipeline.datasets import Listing, list_folder
from res3d_video.pipeline.index import ShardError
from res3d_video.pipeline.remote import CHECKSUMS, RemoteSettings, open_remote
from res3d_video.pipeline.remote_store import RemoteError, RemoteStore
from res3d_video.pipeline.sync import sync_dataset
from res3d_video.pipeline.verify import verify
from res3d_video.tools.numbered import write_numbered_video
from tests.pipeline.conftest import SETTINGS, write_few_videos
from tests.pipeline.test_build import contents
from tests.s3_server import S3Server, s3_server
from tests.until import until

NUM_SHARDS = 4


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six short videos, and two that cannot be read."""
    raw = tmp_path_factory.mktemp("raw")
    write_few_videos(raw, 6, broken=2)
    return raw


@pytest.fixture
def build(listing: Listing, tmp_path: Path) -> Callable[..., BuildResult]:
    """Builds at a URL, in a scratch folder that nothing remembers."""
    scratch = (tmp_path / f"scratch{number}" for number in range(100))

    def build(url: str, settings: BuildSettings = SETTINGS, *, of: Listing = listing, **more: object) -> BuildResult:
        store = more.pop("store", None) or RemoteStore(url)
        return build_shards(of, next(scratch), settings, workers=2, store=store, **more)

    return build


def stored(url: str) -> dict[str, bytes]:
    """Every file at a URL, but the list of checksums that a folder does not have."""
    root, files = url.removeprefix("s3://"), s3fs.S3FileSystem(use_listings_cache=False)
    found = {path.removeprefix(f"{root}/"): files.cat_file(path) for path in files.find(root)}
    found.pop(CHECKSUMS, None)
    return found


def made(server: S3Server) -> list[str]:
    """Names of the tars that came since the requests were last forgotten."""
    return [Path(path).name for path in server.requests("PUT", ".tar")]


def started(raw: Path, url: str, scratch: Path) -> int:
    """The process of a command that builds there, the leader of a group."""
    settings = "--test-fraction 0.25 --size 32 --samples-per-shard 2 --no-keep-aspect --workers 1 --quiet"
    words = f"tools/make_shards.py folder --raw {raw} --out {url} --name few {settings}".split()
    checkout = Path(__file__).resolve().parents[2]
    environment = os.environ | {"TMPDIR": str(scratch)}
    return os.posix_spawn(sys.executable, [sys.executable, checkout / words[0], *words[1:]], environment, setpgroup=0)


def test_what_is_built_at_a_url_is_what_is_built_in_a_folder_and_is_not_built_twice(
    build: Callable[..., BuildResult], local: Path, s3: S3Server, tmp_path: Path
) -> None:
    url = "s3://shards/built/whole"
    assert build(url).num_shards_written == NUM_SHARDS
    assert stored(url) == contents(local)
    assert verify(open_remote(url, RemoteSettings(cache=tmp_path / "cache")), decode=True)[1] == []
    s3.forget_requests()
    again = build(url)
    assert (again.num_shards_written, again.num_shards_kept, again.num_samples) == (0, NUM_SHARDS, 6)
    assert s3.requests("PUT") == s3.requests("DELETE") == s3.requests("GET", ".tar") == []


def test_a_tar_that_is_gone_or_cut_short_is_made_again_and_no_other(
    build: Callable[..., BuildResult], local: Path, s3: S3Server, tmp_path: Path
) -> None:
    url, store = "s3://shards/built/damaged", RemoteStore("s3://shards/built/damaged")
    build(url)
    tars = sorted(name for name in stored(url) if name.endswith(".tar"))
    store.remove(tars[0])
    (tmp_path / "cut").write_bytes(stored(url)[tars[1]][:-1])
    store.upload(tmp_path / "cut", tars[1])
    store.remove(f"{tars[2].removesuffix('.tar')}.idx")
    s3.forget_requests()
    assert build(url).num_shards_written == 3
    assert sorted(made(s3)) == tars[:3]
    assert stored(url) == contents(local)


def test_other_settings_are_refused_and_shards_that_are_no_longer_part_of_it_go(
    build: Callable[..., BuildResult], listing: Listing, s3: S3Server, tmp_path: Path
) -> None:
    url = "s3://shards/built/changed"
    build(url)
    with pytest.raises(ShardError, match=f"^{url}: holds shards made with another quality; choose another --out"):
        build(url, BuildSettings(size=32, samples_per_shard=2, quality=50))
    build(url, limit=3)
    build_shards(listing, tmp_path / "local", SETTINGS, workers=2, limit=3)
    assert stored(url) == contents(tmp_path / "local")


def test_videos_are_appended_at_a_url_as_in_a_folder(
    build: Callable[..., BuildResult], raw: Path, s3: S3Server, tmp_path: Path
) -> None:
    url = "s3://shards/built/appended"
    with pytest.raises(ShardError, match=f"^{url}: no finished dataset to append to"):
        build(url, append=True)
    for name in ("a", "b", "c"):
        (tmp_path / f"raw/{name}").mkdir(parents=True)
        write_numbered_video(tmp_path / f"raw/{name}/1.mp4", 5, height=48, width=64)
        listing = list_folder(tmp_path / "raw", name="few", test_fraction=0.0)
        build(url, of=listing, append=name > "a")
        build_shards(listing, tmp_path / "local", SETTINGS, workers=1, append=name > "a")
        assert stored(url) == contents(tmp_path / "local")


def test_nothing_is_appended_to_a_copy_which_has_no_parts(
    build: Callable[..., BuildResult], local: Path, s3: S3Server
) -> None:
    url = "s3://shards/built/copied"
    sync_dataset(local, url)
    before = stored(url)
    with pytest.raises(ShardError, match=f"^{url}: parts/few-000000.json is missing, as in a copy; append where"):
        build(url, append=True)
    assert stored(url) == before


def test_names_of_parts_lead_out_of_no_folder(
    build: Callable[..., BuildResult], local: Path, s3: S3Server, tmp_path: Path
) -> None:
    files = s3fs.S3FileSystem()
    for name in ("parts/../../outside.json", "parts/a/b.json", "parts/.hidden.json"):
        files.pipe_file(f"shards/built/names/{name}", b"{}")
    assert build("s3://shards/built/names").num_shards_written == NUM_SHARDS
    scratch = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert not [name for name in scratch if name.endswith(("outside.json", "b.json", ".hidden.json"))]


def test_a_build_that_was_killed_goes_on_from_what_is_there(
    raw: Path, build: Callable[..., BuildResult], local: Path, s3: S3Server, tmp_path: Path
) -> None:
    url = "s3://shards/built/killed"
    s3.forget_requests()
    process = started(raw, url, tmp_path)
    until(lambda: s3.requests("PUT", "killed/parts/"), seconds=60)
    os.killpg(process, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL
    finished = [Path(path).stem for path in s3.requests("PUT", "killed/parts/")]
    assert 0 < len(finished) < NUM_SHARDS, "killed too late to be a test"
    assert "dataset.json" not in stored(url)
    s3.forget_requests()
    assert build(url).num_shards_kept == len(finished)
    assert not {Path(name).stem for name in made(s3)} & set(finished)
    assert stored(url) == contents(local)


@pytest.fixture
def breaking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server that goes down when the second tar is about to come."""
    upload, asked = RemoteStore.upload, list[str]()
    (tmp_path / "bucket").mkdir()
    with s3_server(tmp_path / "bucket") as server:

        def break_once(self: RemoteStore, source: Path, name: str, **stop: threading.Event) -> None:
            asked.append(name)
            if [name for name in asked if name.endswith(".tar")][1:] == [name]:
                server.stop()
            upload(self, source, name, **stop)

        monkeypatch.setattr(RemoteStore, "upload", break_once)
        yield server


def test_a_server_that_comes_back_is_waited_for(
    build: Callable[..., BuildResult], local: Path, breaking: S3Server
) -> None:
    url, said = "s3://shards/built/outage", list[str]()
    thread = threading.Thread(target=partial(build, url, store=RemoteStore(url, timeout_s=60, say=said.append)))
    thread.start()
    until(lambda: said)
    breaking.start()
    thread.join(60)
    assert not thread.is_alive()
    assert stored(url) == contents(local)
    assert len(said) == 1
    assert "no answer" in said[0]


def test_a_server_that_stays_away_ends_the_build_in_one_line_and_what_is_there_stays(
    build: Callable[..., BuildResult], local: Path, breaking: S3Server
) -> None:
    url = "s3://shards/built/gone"
    with pytest.raises(RemoteError, match=rf"^{url}/few-\d+.tar: no answer for 0 s \(.*\); look at the server"):
        build(url, store=RemoteStore(url, timeout_s=0.3))
    breaking.start()
    assert build(url).num_shards_kept == 1
    assert stored(url) == contents(local)


def test_a_web_server_takes_no_shards_and_says_so_before_the_work(listing: Listing, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="https://host/x: web servers take no files; choose s3://"):
        build_shards(listing, tmp_path / "out", SETTINGS, workers=1, store=RemoteStore("https://host/x"))
    assert not (tmp_path / "out").exists()
