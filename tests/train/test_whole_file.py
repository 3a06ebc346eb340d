"""Files written whole: what is on the disk afterwards, whatever happened meanwhile."""

import errno
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from res3d_video.train.checkpoint import write_whole
from res3d_video.train.torch_file import check_records

CHECKOUT = Path(__file__).resolve().parents[2]


def saving(number: float) -> Any:
    return partial(torch.save, {"w": torch.full((4,), float(number))})


def number_in(path: Path) -> float:
    return float(torch.load(path, weights_only=True)["w"][0])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_former_file_keeps_another_name_and_the_one_before_goes(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_whole(tmp_path / "latest", saving(number), former=tmp_path / "previous")
    assert names(tmp_path) == ["latest", "previous"]
    assert (number_in(tmp_path / "latest"), number_in(tmp_path / "previous")) == (3, 2)


def test_without_hard_links_the_former_file_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    for number in (1, 2):
        write_whole(tmp_path / "latest", saving(number), former=tmp_path / "previous")
    assert (number_in(tmp_path / "latest"), number_in(tmp_path / "previous")) == (2, 1)


def test_a_disk_that_gives_back_something_else_is_found_out_and_the_old_file_stays(tmp_path: Path) -> None:
    def write_one_bit_wrong(file: BinaryIO) -> None:
        saving(2)(file)
        file.flush()
        weights = torch.full((4,), 2.0).numpy().tobytes()
        place = Path(file.name).read_bytes().index(weights)
        os.pwrite(file.fileno(), bytes([weights[0] ^ 1]), place)

    write_whole(tmp_path / "latest", saving(1))
    with pytest.raises(OSError, match=r"what was read back is not what was written: .*data/0 does not match"):
        write_whole(tmp_path / "latest", write_one_bit_wrong, former=tmp_path / "previous")
    assert names(tmp_path) == ["latest"]
    assert number_in(tmp_path / "latest") == 1


FULL_DISK = """
import json, resource, sys, torch
from functools import partial
from pathlib import Path
from res3d_video.train.checkpoint import write_whole
path, found = Path(sys.argv[1]), []
write_whole(path, partial(torch.save, {"w": torch.full((4,), 1.0)}))
for limit in (0, 70, 100_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_whole(path, partial(torch.save, {"w": torch.full((100_000,), 2.0)}), former=path.with_name("previous"))
    except OSError as error:
        found.append([error.errno, sorted(file.name for file in path.parent.iterdir())])
print(json.dumps(found))
"""


def test_where_no_more_can_be_written_the_old_file_stays_and_no_other(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "latest")]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[errno.EFBIG, ["latest"]]] * 3
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
