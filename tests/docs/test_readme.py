"""The README's make commands run, and every file that it or another page names exists."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import CHECKOUT, PAGES, name_of

README = (CHECKOUT / "README.md").read_text()


@pytest.mark.slow
def test_the_two_make_commands_run(tmp_path: Path) -> None:
    if not (Path(sys.prefix) / ".ready").is_file():
        pytest.skip("this environment was not made by make, which would make it anew")
    home = tmp_path / "checkout"
    skipped = shutil.ignore_patterns(".*", "data", "runs", "demo", "shards", "__pycache__", "*.egg-info")
    shutil.copytree(CHECKOUT, home, ignore=skipped)
    run(f"touch {sys.prefix}/.ready; make demo VENV={sys.prefix} DEMO_VIDEOS=2 DEMO_STEPS=2", home)
    assert (home / "demo/run/evaluation.json").is_file()
    run(f"make test VENV={sys.prefix} TESTS=tests/pipeline/test_clip.py", home)


def run(words: str, home: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(words, shell=True, cwd=home, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_files_of_the_readmes_tree_exist() -> None:
    tree = README.split("## Where things are")[1].split("## Read on")[0]
    folder, root = CHECKOUT, CHECKOUT
    for line in filter(None, tree.splitlines()):
        indent, names = (len(line) - len(line.lstrip())) // 2, re.findall(r"[\w./]+\.py|[\w./]+\.md|[\w/]+/(?= )", line)
        for name in names:
            if name.endswith("/") and indent == 2:
                folder = root / name
            assert ((folder if indent > 2 else root) / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_a_page_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for link, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([\w-]+))?\)", page.read_text()):
        if re.match(r"\w+:", link):
            continue
        target = page.parent / link if link else page
        assert target.exists(), f"{name_of(page)}: {link}"
        assert not anchor or anchor in anchors(target), f"{name_of(page)}: {link}#{anchor}"


def test_the_index_of_docs_names_every_page_there() -> None:
    index = CHECKOUT / "docs/README.md"
    linked = {(index.parent / link).resolve() for link in re.findall(r"\]\(([^)#]+)[^)]*\)", index.read_text())}
    assert not [name_of(page) for page in index.parent.glob("*.md") if page != index and page not in linked]


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in links, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
