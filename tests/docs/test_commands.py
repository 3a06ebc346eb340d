"""Every command that a page names, run or not, exists and has the options it is given there."""

from pathlib import Path

import pytest

from tests.docs.blocks import IN_TEXT, PAGES, all_blocks, command_lines, mistake, name_of, our_commands

SHELLS = {"", "bash", "console", "sh"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_a_page_exists_with_its_options(page: Path) -> None:
    scripts = [block.text for block in all_blocks() if block.page == page and block.language in SHELLS]
    scripts += IN_TEXT.findall(page.read_text())
    wrong = [
        found
        for script in scripts
        for words in command_lines(script.replace("\\\n", " "))
        for name, rest in our_commands(words)
        if (found := mistake(name, rest))
    ]
    assert not wrong


def test_a_mistake_in_a_command_line_is_found() -> None:
    for line, said in (
        ("python tools/make_shards.py ucf101 --codec h264 --out x", ""),
        ("python tools/make_shards.py ucf101 --codec h265", "h265"),
        ("python tools/make_shards.py ucf102", "ucf102"),
        ("python tools/make_shards.py ucf101 --qualty 3", "no such option"),
        ("res3d-chek-shards x", "no such command"),
        ("torchrun --nproc-per-node 8 train/main.py --data x --preset tiny --out y --steps many", "many"),
        ("srun --x=1 torchrun --nnodes $N \\\n  train/main.py --data x --preset tiny --out y --lr $LR", ""),
    ):
        ((name, words),) = [found for words in command_lines(line) for found in our_commands(words)]
        found = mistake(name, words)
        assert (said in found) if said else not found
