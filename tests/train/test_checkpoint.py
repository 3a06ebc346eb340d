"""Checkpoints: whole or absent, readable without running code, and named when they are not."""

import errno
import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from res3d_video.train.checkpoint import (
    FORMAT,
    CheckpointError,
    load_checkpoint,
    load_latest,
    save_checkpoint,
)
from res3d_video.train.torch_file import check_records
from tests.checkpoints import tiny_state
from tests.train.conftest import room_for


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
        (b"", "cannot be read"),
        (b"PK\x03\x04 cut off", "cannot be read"),
        ({"step": Path("x")}, "cannot be read"),  # would run code
        ({"weights": torch.zeros(1)}, "not a checkpoint of this trainer"),
        (None, "does not exist; give a .pt file of a run folder"),
    ],
    ids=["empty", "cut off", "code", "other", "none"],
)
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "a.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_checkpoint_of_most_steps_is_taken_when_latest_is_damaged(tmp_path: Path) -> None:
    states = {step: tiny_state(step) for step in (1, 2, 3)}
    for state in states.values():
        save_checkpoint(tmp_path / "latest.pt", state, former=tmp_path / "previous.pt")
    save_checkpoint(tmp_path / "best.pt", tiny_state(1))
    content = bytearray((tmp_path / "latest.pt").read_bytes())
    weights = content.index(next(iter(states[3]["model"].values())).numpy().tobytes())
    content[weights + 5] ^= 1  # torch.load would not see it
    (tmp_path / "latest.pt").write_bytes(content)
    said: list[str] = []
    found = load_latest(tmp_path, say=said.append)
    assert found is not None
    assert (found[0].name, found[1]["step"]) == ("previous.pt", 2)
    assert said == [
        f"checkpoint: {tmp_path / 'latest.pt'} cannot be read (archive/data/0 does not match its checksum); "
        "use another one"
    ]
    save_checkpoint(tmp_path / "step-40.pt", tiny_state(40))
    (tmp_path / "previous.pt").write_bytes(b"damaged")
    assert load_latest(tmp_path, say=said.append)[0].name == "step-40.pt"  # type: ignore[index]


def test_a_readable_latest_is_taken_whatever_else_is_there(tmp_path: Path) -> None:
    assert load_latest(tmp_path, say=print) is None
    save_checkpoint(tmp_path / "latest.pt", tiny_state(5))
    save_checkpoint(tmp_path / "step-9.pt", tiny_state(9))  # of a run that was begun anew further back
    (tmp_path / "best.pt").write_bytes(b"damaged")
    found = load_latest(tmp_path, say=pytest.fail)
    assert found is not None
    assert found[1]["step"] == 5


def number_in(path: Path) -> float:
    return float(torch.load(path, weights_only=True)["w"][0])


def save(path: Path, number: float, *, former: Path | None = None) -> None:
    save_checkpoint(path, {"w": torch.full((4,), float(number))}, former=former)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("has_links", [True, False])
def test_the_former_file_keeps_another_name_and_the_one_before_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def link(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not has_links:
        monkeypatch.setattr(os, "link", link)
    for number in (1, 2, 3):
        save(tmp_path / "latest", number, former=tmp_path / "previous")
    assert names(tmp_path) == ["latest", "previous"]
    assert (number_in(tmp_path / "latest"), number_in(tmp_path / "previous")) == (3, 2)


def test_a_disk_that_gives_back_something_else_is_found_out_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert names(tmp_path) == ["latest"]
    assert number_in(tmp_path / "latest") == 1


@pytest.mark.parametrize("room", [0, 70, 1000])
def test_where_no_more_can_be_written_the_old_file_stays_and_no_other(tmp_path: Path, room: int) -> None:
    save(tmp_path / "latest", 1)
    with room_for(room), pytest.raises(OSError, match="File too large"):
        save(tmp_path / "latest", 2, former=tmp_path / "previous")
    assert names(tmp_path) == ["latest"]
    assert number_in(tmp_path / "latest") == 1


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
