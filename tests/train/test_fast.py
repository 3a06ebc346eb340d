"""--fast: settings of the very same card and versions are taken, others are refused; explicit options win."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner

from res3d_video.pipeline.errors import UserError
from res3d_video.train import resolve as train_options
from res3d_video.train.options import EXECUTION_OPTIONS
from res3d_video.train.ranks import Ranks
from res3d_video.train.resolve import card_of, driver_version, execution, fast_options

CARD = {"gpu": "NVIDIA H100", "driver": "580.95", "torch": "2.13.0", "dali": "2.4.0"}
FOUND = {"space_to_depth": True, "hw_decoder_load": 0.5}


@pytest.mark.parametrize(
    ("file", "said"),
    [
        *[({"card": CARD | {name: "other"}, "options": FOUND}, f"is of {name} other, this is") for name in CARD],
        ({"card": CARD, "options": {"compile": "yes"}}, "not settings for --fast"),
        (None, "does not exist"),
    ],
    ids=[*CARD, "no bool", "no file"],
)
def test_settings_of_another_card_or_none_are_refused(tmp_path: Path, file: dict[str, Any] | None, said: str) -> None:
    path = tmp_path / "fast.json"
    if file is not None:
        path.write_text(json.dumps(file))
    with pytest.raises(UserError, match=f"fast.json:? {said}.*; run tools/check_gpu.py"):
        fast_options(CARD, path)


def test_the_driver_is_what_its_own_file_says_and_without_a_gpu_the_way_out_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this run has none; leave --fast out"):
        fast_options(card_of(torch.device("cpu")), tmp_path / "none.json")
    file = tmp_path / "version"
    assert driver_version(file) == "unknown"
    module = "NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build"
    file.write_text(f"NVRM version: {module}\nGCC version: 13.2\n")
    assert driver_version(file) == "580.95.05"


@pytest.mark.parametrize(
    ("words", "space_to_depth", "load"),
    [
        ([], False, 1.0),
        (["--fast"], True, 0.5),
        (["--fast", "--no-space-to-depth"], False, 0.5),
        (["--fast", "--hw-decoder-load", "1"], True, 1.0),
    ],
)
def test_options_that_are_given_win_and_a_line_says_what_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], space_to_depth: bool, load: float
) -> None:
    (tmp_path / "fast.json").write_text(json.dumps({"card": CARD, "options": FOUND}))
    monkeypatch.setattr(train_options, "card_of", lambda device: CARD)
    monkeypatch.setattr(train_options, "fast_path", lambda: tmp_path / "fast.json")
    taken = []

    @click.command()
    def command(**options: Any) -> None:
        taken.extend(execution(options, Ranks(), say=click.echo))

    for option in EXECUTION_OPTIONS:
        command = option(command)
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    loader, step = taken
    assert (step.space_to_depth, loader.hw_decoder_load) == (space_to_depth, load)
    assert done.output.count("--fast takes from") == ("--fast" in words)
    assert ("space-to-depth True" in done.output) == ("--fast" in words and space_to_depth)
