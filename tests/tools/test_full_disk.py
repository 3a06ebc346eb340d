"""Disks that are full, or may not be written, really: a file system in memory of a few kilobytes."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import list_folder
from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.remote import RemoteSettings, open_remote
from res3d_video.pipeline.remote_store import RemoteError
from res3d_video.pipeline.shard_writer import sha256_of
from res3d_video.pipeline.sync import sync_dataset
from res3d_video.tools import make_shards
from res3d_video.tools.numbered import write_numbered_video
from tests.pipeline.test_build import contents
from tests.pipeline.test_build_at_url import stored
from tests.s3_server import S3Server


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full") / "raw"
    for name in ("left/a", "left/b", "right/c", "right/d"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_numbered_video(folder / f"{name}.mp4", num_frames=24)
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """Gives `tmp_path` / "disk" a size, bytes."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(num_bytes: int) -> None:
        options = f"size={num_bytes}" if not folder.is_mount() else f"remount,size={num_bytes}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a file system of its own cannot be mounted here: {done.stderr.strip()}")

    yield resize
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def build(raw: Path, out: Path | str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Exit code, and the lines of standard error that are no progress."""
    words = ["folder", "--raw", str(raw), "--out", str(out), "--samples-per-shard", "2", "--workers", "1", "--quiet"]
    with pytest.raises(SystemExit) as ended:
        make_shards.main(words, prog_name="make_shards.py")
    return int(ended.value.code or 0), capsys.readouterr().err.splitlines()


def says(folder: Path, fault: str) -> str:
    return (
        f"error: {folder}: {fault}; make room, or make it writable, and run the same command again: finished shards "
        "are kept"
    )


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_build_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    raw: Path, tmp_path: Path, disk: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(raw, tmp_path / "calm", capsys)[0] == 0
    expected = content(tmp_path / "calm")
    needed = sum((tmp_path / "calm" / name).stat().st_size for name in expected)
    out = tmp_path / "disk" / "shards"
    disk(2 * needed)
    was_full = 0
    for num_bytes in (4096, 8192, needed // 3, needed // 2, 2 * needed // 3, needed - 8192):
        for path in sorted(out.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        disk(num_bytes)
        code, said = build(raw, out, capsys)
        if code:
            was_full += 1
            (line,) = said
            assert line.startswith(f"error: {out}")
            assert line.endswith(says(out, "No space left on device").removeprefix(f"error: {out}"))
            assert not (out / "dataset.json").exists()
        disk(4 * needed + 2**20)
        assert build(raw, out, capsys)[0] == 0
        assert content(out) == expected
    assert was_full > 3


def test_a_build_at_a_url_needs_room_for_one_tar_at_a_time_and_says_when_there_is_none(
    raw: Path,
    tmp_path: Path,
    disk: Callable[[int], None],
    s3: S3Server,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert build(raw, tmp_path / "calm", capsys)[0] == 0
    first, second = (path.stat().st_size for path in (tmp_path / "calm").glob("*.tar"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "disk"))
    for num_bytes in (4096, min(first, second) // 2):
        disk(num_bytes)
        code, (line,) = build(raw, "s3://shards/full", capsys)
        assert (code, "No space left on device; make room" in line) == (1, True)
        assert f"{tmp_path}/disk" in line
        assert not list((tmp_path / "disk").iterdir())
    disk((first + second) * 3 // 4 + 2**17)  # and the index
    assert build(raw, "s3://shards/full", capsys)[0] == 0
    assert stored("s3://shards/full") == contents(tmp_path / "calm")


def test_a_copy_and_a_cache_on_a_full_disk_name_it_and_not_the_server(
    raw: Path, tmp_path: Path, disk: Callable[[int], None], s3: S3Server
) -> None:
    listing, folder, url = list_folder(raw, name="full", test_fraction=0.0), tmp_path / "disk", "s3://shards/source"
    build_shards(listing, tmp_path / "calm", BuildSettings(samples_per_shard=2), workers=1)
    sync_dataset(tmp_path / "calm", url)
    disk(8192)
    with pytest.raises(UserError, match=f"^{folder}/copy: No space left on device; make room, .*copied files are kept"):
        sync_dataset(url, folder / "copy")
    with pytest.raises(RemoteError, match=f"^{folder}/cache/.*: No space left on device; make room, .*--cache$"):
        open_remote(url, RemoteSettings(cache=folder / "cache"))
    disk(2**23)
    sync_dataset(url, folder / "copy")
    assert open_remote(url, RemoteSettings(cache=folder / "cache")).num_samples == 4


def test_a_disk_that_may_only_be_read_is_said_in_one_line(
    raw: Path, tmp_path: Path, disk: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    disk(2**20)
    folder = tmp_path / "disk"
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    assert build(raw, folder / "shards", capsys) == (1, [says(folder / "shards", "Read-only file system")])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a while")
def test_a_folder_of_somebody_else_is_said_in_one_line(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o755)
    for parent in (*list(raw.parents)[:-1], *list(tmp_path.parents)[:-1], tmp_path):
        parent.chmod(parent.stat().st_mode | 0o055)
    os.seteuid(65534)  # nobody
    try:
        assert build(raw, folder / "shards", capsys) == (1, [says(folder / "shards", "Permission denied")])
    finally:
        os.seteuid(0)
