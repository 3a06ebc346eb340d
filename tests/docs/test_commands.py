"""Every command that a page names, run or not, exists and has the options it is given there."""

import doctest
from pathlib import Path

import pytest

from tests.docs import blocks, messages
from tests.docs.blocks import (
    CHECKOUT,
    IN_TEXT,
    PAGES,
    all_blocks,
    blocks_of,
    command_lines,
    mistakes,
    name_of,
    our_commands,
)

SHELLS = {"", "bash", "console", "sh"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_a_page_exists_with_its_options(page: Path) -> None:
    scripts = [block.text for block in all_blocks() if block.page == page and block.language in SHELLS]
    scripts += IN_TEXT.findall(page.read_text())
    wrong = [
        mistake
        for script in scripts
        for words in command_lines(script.replace("\\\n", " "))
        for name, rest in our_commands(words)
        for mistake in mistakes(name, rest)
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("python tools/make_shards.py ucf101 --codec h264 --out x", ""),
        ("python tools/make_shards.py ucf101 --codec h265", "h265"),
        ("python tools/make_shards.py ucf102", "ucf102 is none of"),
        ("python tools/make_shards.py ucf101 --qualty 3", "No such option"),
        ("python tools/no_such.py --data x", "no such command"),
        ("res3d-check-shards x --decode", ""),
        ("res3d-chek-shards x", "no such command"),
        ("torchrun --nproc-per-node 8 train/main.py --data x --preset tiny --out y --steps many", "many"),
        ("torchrun --nproc-per-node 8 train/main.py --preset tiny", "--data is missing"),
        ("srun --x=1 torchrun --nnodes $N \\\n  train/main.py --data x --preset tiny --out y --lr $LR", ""),
        ('sbatch --wrap "python tools/make_shards.py sports1m --finnish"', "No such option"),
        ("A=1 python -m res3d_video.train.models --model res3d19", "res3d19"),
    ],
)
def test_a_mistake_in_a_command_line_is_found(line: str, said: str) -> None:
    found = [m for words in command_lines(line) for name, rest in our_commands(words) for m in mistakes(name, rest)]
    assert (said in found[0]) if said else found == []


def test_blocks_are_found_with_their_language_and_the_reason_why_they_are_not_run() -> None:
    text = "a\n```bash\nb\n```\n<!-- not run: c d -->\n```\ne\n```\n\n- f\n\n  ```python\n  if g:\n      h\n  ```\n"
    found = [(b.line, b.language, b.text, b.reason) for b in blocks_of(text, page=CHECKOUT / "README.md")]
    assert found == [(2, "bash", "b\n", None), (6, "", "e\n", "c d"), (12, "python", "if g:\n    h\n", None)]


def test_the_examples_in_docstrings_of_these_tests_are_true() -> None:
    results = [doctest.testmod(module) for module in (blocks, messages)]
    assert [result.failed for result in results] == [0, 0]
    assert all(result.attempted for result in results)
