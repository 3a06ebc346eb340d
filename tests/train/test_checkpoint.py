"""Checkpoints: whole or absent, readable without running code, and named when they are not."""

from pathlib import Path

import pytest
import torch

from res3d_video.train.checkpoint import (
    FORMAT,
    CheckpointError,
    load_checkpoint,
    load_latest,
    save_checkpoint,
    step_of,
)
from tests.checkpoints import tiny_state


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    state = tiny_state(7)
    save_checkpoint(tmp_path / "a.pt", state)
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert (loaded["step"], loaded["format"]) == (7, FORMAT)
    assert all(torch.equal(loaded["model"][name], value) for name, value in state["model"].items())
    assert loaded.keys() == {"format", *state}
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", tiny_state(1))
    with pytest.raises((TypeError, AttributeError, RuntimeError)):
        save_checkpoint(tmp_path / "a.pt", tiny_state(2) | {"loader": (value for value in ())})  # no generator pickles
    assert load_checkpoint(tmp_path / "a.pt")["step"] == 1


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "a.pt")
    assert str(tmp_path / "a.pt") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a\.pt does not exist; give a \.pt file of a run folder"):
        load_checkpoint(tmp_path / "a.pt")


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"step": Path("x")}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "a.pt")


def test_some_other_file_of_torch_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of this trainer"):
        load_checkpoint(tmp_path / "a.pt")


def test_the_newest_readable_checkpoint_is_taken_when_latest_is_damaged(tmp_path: Path) -> None:
    for name, step in (("best.pt", 30), ("step-20.pt", 20), ("step-40.pt", 40)):
        save_checkpoint(tmp_path / name, tiny_state(step))
    for name in ("latest.pt", "step-40.pt"):
        (tmp_path / name).write_bytes(b"damaged")
    said: list[str] = []
    found = load_latest(tmp_path, say=said.append)
    assert found is not None
    assert (found[0].name, found[1]["step"]) == ("best.pt", 30)
    assert [name for name in ("latest.pt", "step-40.pt") if any(name in line for line in said)] == [
        "latest.pt",
        "step-40.pt",
    ]


def test_the_checkpoint_before_the_last_is_kept_and_taken_when_the_last_is_damaged(tmp_path: Path) -> None:
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


def test_a_readable_latest_is_taken_whatever_else_is_there(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "latest.pt", tiny_state(5))
    save_checkpoint(tmp_path / "step-9.pt", tiny_state(9))  # of a run that was begun anew further back
    (tmp_path / "best.pt").write_bytes(b"damaged")
    found = load_latest(tmp_path, say=pytest.fail)
    assert found is not None
    assert found[1]["step"] == 5


def test_only_damaged_checkpoints_are_an_error_and_none_is_none(tmp_path: Path) -> None:
    assert load_latest(tmp_path, say=print) is None
    (tmp_path / "latest.pt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"no file in .* can be read"):
        load_latest(tmp_path, say=lambda line: None)


def test_only_step_files_have_a_step() -> None:
    names = ("step-12000.pt", "best.pt", "step-.pt", "my-step-3.pt")
    assert [step_of(Path(name)) for name in names] == [12000, None, None, None]
