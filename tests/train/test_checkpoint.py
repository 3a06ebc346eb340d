"""Checkpoints: whole or absent, readable without running code, and named when they are not."""

import errno
import os
import re
from pathlib import Path
from typing import Any, BinaryIO
from unittest.mock import Mock

import pytest
import torch

from res3d_video.train.checkpoint import FORMAT, CheckpointError, load_checkpoint, load_latest, save_checkpoint
from res3d_video.train.torch_file import check_records
from tests.checkpoints import tiny_state
from tests.train.conftest import room_for, write


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    state = tiny_state(7)
    save_checkpoint(tmp_path / "a.pt", state)
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert (loaded["step"], loaded["format"]) == (7, FORMAT)
    assert all(torch.equal(loaded["model"][name], value) for name, value in state["model"].items())
    assert loaded.keys() == {"format", *state}
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"step": Path("x")}, "cannot be read"),  # would run code
        ({"weights": torch.zeros(1)}, "not a checkpoint of this trainer"),
        (None, "does not exist; give a .pt file of a run folder"),
    ],
    ids=["code", "other", "none"],
)
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "a.pt"
    write(path, content)
    with pytest.raises(CheckpointError, match=rf"^[^\n]*{re.escape(str(path))}[^\n]*{said}[^\n]*$"):
        load_checkpoint(path)


def test_the_checkpoint_of_most_steps_is_taken_when_latest_is_damaged(tmp_path: Path) -> None:
    for state in map(tiny_state, (1, 2, 3)):
        save_checkpoint(tmp_path / "latest.pt", state, former=tmp_path / "previous.pt")
    save_checkpoint(tmp_path / "best.pt", tiny_state(1))
    content = bytearray((tmp_path / "latest.pt").read_bytes())
    weights = content.index(next(iter(state["model"].values())).numpy().tobytes())
    content[weights + 5] ^= 1  # torch.load would not see it
    (tmp_path / "latest.pt").write_bytes(content)
    said: list[str] = []
    path, found = load_latest(tmp_path, say=said.append)  # type: ignore[misc]
    assert (path.name, found["step"]) == ("previous.pt", 2)
    reason = "archive/data/0 does not match its checksum"
    assert said == [f"checkpoint: {tmp_path / 'latest.pt'} cannot be read ({reason}); use another one"]
    save_checkpoint(tmp_path / "step-40.pt", tiny_state(40))
    (tmp_path / "previous.pt").write_bytes(b"damaged")
    assert load_latest(tmp_path, say=said.append)[0].name == "step-40.pt"  # type: ignore[index]


def test_a_readable_latest_is_taken_whatever_else_is_there(tmp_path: Path) -> None:
    assert load_latest(tmp_path, say=print) is None
    save_checkpoint(tmp_path / "latest.pt", tiny_state(5))
    save_checkpoint(tmp_path / "step-9.pt", tiny_state(9))  # of a run that was begun anew further back
    (tmp_path / "best.pt").write_bytes(b"damaged")
    assert load_latest(tmp_path, say=pytest.fail)[1]["step"] == 5  # type: ignore[index]


def save(path: Path, number: float, *, former: Path | None = None) -> None:
    save_checkpoint(path, {"w": torch.full((4,), float(number))}, former=former)


def numbers(folder: Path) -> dict[str, float]:
    """The number in each file of a folder."""
    return {path.name: float(torch.load(path, weights_only=True)["w"][0]) for path in folder.iterdir()}


@pytest.mark.parametrize("links", [os.link, Mock(side_effect=OSError(errno.EPERM, "no links here"))])
def test_the_former_file_keeps_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: Any) -> None:
    monkeypatch.setattr(os, "link", links)
    for number in (1, 2, 3):
        save(tmp_path / "latest", number, former=tmp_path / "previous")
    assert numbers(tmp_path) == {"latest": 3, "previous": 2}


def test_a_disk_that_gives_back_something_else_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "latest", 1)
    right = torch.save

    def save_one_bit_wrong(state: dict[str, Any], file: BinaryIO) -> None:
        right(state, file)
        file.flush()
        weights = state["w"].numpy().tobytes()
        os.pwrite(file.fileno(), bytes([weights[0] ^ 1]), Path(file.name).read_bytes().index(weights))

    monkeypatch.setattr(torch, "save", save_one_bit_wrong)
    with pytest.raises(OSError, match=r"what was read back is not what was written: .*data/0 does not match"):
        save(tmp_path / "latest", 2, former=tmp_path / "previous")
    assert numbers(tmp_path) == {"latest": 1}


@pytest.mark.parametrize("room", [0, 70, 1000])
def test_where_no_more_can_be_written_the_old_file_stays_and_no_other(tmp_path: Path, room: int) -> None:
    save(tmp_path / "latest", 1)
    with room_for(room), pytest.raises(OSError, match="File too large"):
        save(tmp_path / "latest", 2, former=tmp_path / "previous")
    assert numbers(tmp_path) == {"latest": 1}


def test_no_flipped_bit_and_no_cut_goes_unseen(tmp_path: Path) -> None:
    path, state = tmp_path / "a", {"w": torch.arange(8.0), "n": [1, "two", None]}
    torch.save(state, path)
    whole, unseen = path.read_bytes(), []
    damages = [whole[:i] + bytes([whole[i] ^ 16]) + whole[i + 1 :] for i in range(len(whole))]
    damages += [whole[:i] for i in range(0, len(whole), 9)]
    for i, damaged in enumerate(damages):
        path.write_bytes(damaged)
        try:
            check_records(path)
            loaded = torch.load(path, weights_only=True)
        except Exception:
            continue
        if not torch.equal(loaded["w"], state["w"]) or loaded["n"] != state["n"]:
            unseen.append(i)
    assert not unseen
    assert len(damages) > 1500
