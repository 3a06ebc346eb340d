"""Every code block of the README, of docs/ and of shards/README.md runs, or says in a comment before it why not."""

import re
from pathlib import Path

import numpy as np
import pytest

from res3d_video.tools.numbered import number_of, read_bits
from tests.docs.blocks import CHECKOUT, IN_TEXT, PAGES, Block, all_blocks, command_lines, name_of, our_commands
from tests.docs.world import World

OPTIONAL = ("torchcodec", "lightning", "accelerate")  # not in extra dev: their blocks run where they are installed
MAKE = ["make demo", "make test"]  # tests/docs/test_readme.py runs the first, the second runs this


def optional_of(block: Block) -> str | None:
    """The package that a block imports and that may be missing."""
    imported = re.findall(r"^ *(?:from|import) (\w+)", block.text, re.MULTILINE)
    return next((name for name in imported if name in OPTIONAL), None)


RUN = [block for block in all_blocks() if block.reason is None]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_of_a_page_can_be_run_or_says_why_it_is_not(page: Path) -> None:
    strange = [block for block in RUN if block.page == page and block.language not in ("bash", "python")]
    assert not [str(block) for block in strange], "put <!-- not run: WHY --> before these blocks"
    scripts = [block for block in RUN if block.page == page and block.language == "bash"]
    for block in scripts:
        for words in command_lines(block.text):
            assert " ".join(words) in MAKE or list(our_commands(words)), f"{block}: {' '.join(words)} is not run here"


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in RUN}), ids=name_of)
def test_the_blocks_of_a_page_run_in_their_order(page: Path, at_home: World) -> None:
    for block in RUN:
        if block.page == page and optional_of(block) is None:
            run_block(block, at_home)


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in RUN if optional_of(block)], ids=str)
def test_blocks_that_need_other_packages_run_where_these_are(block: Block, at_home: World) -> None:
    package = optional_of(block)
    pytest.importorskip(package, reason=f"{package} is not installed", exc_type=Exception)
    run_block(block, at_home)


@pytest.mark.slow
def test_commands_in_the_text_of_the_readme_run(at_home: World) -> None:
    texts = [text for text in IN_TEXT.findall((CHECKOUT / "README.md").read_text()) if text.startswith("python ")]
    assert texts
    for words in command_lines("\n".join(dict.fromkeys(texts))):
        run_command(words, at_home, where="README.md")


def test_webdataset_and_pillow_turn_strips_back_into_frames(at_home: World) -> None:
    block = next(b for b in all_blocks() if 'decode("pil")' in b.text and "strip.crop" in b.text)
    names = at_home.execute(block.text, where=str(block))
    shown = [number_of(read_bits(np.array(frame), grey=128)) for frame in names["frames"]]
    assert shown == list(range(names["meta"]["num_frames"]))


def run_block(block: Block, world: World) -> None:
    """All that a block says."""
    if block.language == "python":
        world.execute(block.text, where=str(block))
        return
    for words in command_lines(block.text):
        run_command(words, world, where=str(block))


def run_command(words: list[str], world: World, *, where: str) -> None:
    """One line of a shell."""
    for name, rest in our_commands(words):
        result = world.run(name, rest)
        assert result.exit_code == 0, f"{where}: {' '.join(words)}\n{result.output[-2000:]}\n{result.exception!r}"
