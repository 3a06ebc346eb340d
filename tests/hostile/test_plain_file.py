"""Only plain files are opened, and none is waited for."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from res3d_video.pipeline.files import NotPlainError, new_file_opener, open_plain, read_plain


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """Opening a pipe waits for its writer; here that is a failure."""
    signal.alarm(10)
    yield
    signal.alarm(0)


def make_socket(path: Path) -> None:
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path.name)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "a: is a pipe, not a file"),
        (Path.mkdir, "a: is a folder, not a file"),
        (make_socket, "a: is a socket, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "a: is a device, not a file"),
    ],
)
def test_what_is_no_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "a")
    with pytest.raises(NotPlainError, match=f"^{said}$"):
        open_plain(tmp_path / "a")


def test_links_are_followed_inside_a_home_and_not_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "home/deep").mkdir(parents=True)
    for name in ("home/deep/a", "outside", "home-b"):
        (tmp_path / name).write_text(name)
    home = tmp_path / "home"
    for number, (target, inside) in enumerate(
        [
            ("deep/a", True),
            ("deep/../deep/a", True),
            ("../outside", False),
            ("../home-b", False),
            ("/etc/passwd", False),
        ]
    ):
        link = home / f"link{number}"
        link.symlink_to(target)
        if inside:
            os.close(open_plain(link, home=home))
        else:
            with pytest.raises(NotPlainError, match="a link leads out of"):
                open_plain(link, home=home)
            os.close(open_plain(link))
    (home / "linked").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(NotPlainError, match="a link leads out of"):
        open_plain(home / "linked/outside", home=home)
    with pytest.raises(NotPlainError, match="a link leads out of"):
        open_plain(home / "../outside", home=home)


def test_nothing_stays_open_after_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("/etc/passwd")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(NotPlainError):
        open_plain(tmp_path / "a", home=tmp_path)
    assert os.listdir("/proc/self/fd") == before


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_plain(tmp_path / "a", max_bytes=5) == b"12345"
    with pytest.raises(NotPlainError, match="a: is longer than 4 bytes"):
        read_plain(tmp_path / "a", max_bytes=4)


def test_a_new_file_does_not_go_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "a").symlink_to("mine")
    with pytest.raises(OSError, match="symbolic links"):
        (tmp_path / "a").open("rb").close()
        new_file_opener(str(tmp_path / "a"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    assert (tmp_path / "mine").read_text() == "precious"
