"""`make demo` and `make docs` run, and every file that a page names exists; `make test` runs this."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import CHECKOUT, PAGES, name_of


@pytest.mark.slow
def test_make_demo_runs(tmp_path: Path) -> None:
    if not (Path(sys.prefix) / ".ready").is_file():
        pytest.skip("this environment was not made by make, which would make it anew")
    home = copied(tmp_path)
    run(f"touch {sys.prefix}/.ready; make demo VENV={sys.prefix} DEMO_VIDEOS=2 DEMO_STEPS=2", home)
    made = ["run/scores.json", "run.html", "data.html", "clip.gif"]
    assert [name for name in made if not (home / "demo" / name).is_file()] == []


def copied(folder: Path) -> Path:
    """A copy of the checkout, without what its owner made in it."""
    kept = {CHECKOUT / name for name in ("docs", "pipeline", "tests", "tools", "train")}

    def ignored(inside: str, names: list[str]) -> list[str]:
        paths = [Path(inside) / name for name in names]
        at_top = [path for path in paths if path.parent == CHECKOUT and path.is_dir() and path not in kept]
        return [path.name for path in paths if path in at_top or path.name == "__pycache__"]

    home = shutil.copytree(CHECKOUT, folder / "checkout", ignore=ignored)
    (home / "shards").mkdir()
    shutil.copy(CHECKOUT / "shards/README.md", home / "shards")
    return home


def run(words: str, home: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(words, shell=True, cwd=home, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_files_and_folders_of_a_map_exist(page: str) -> None:
    named = re.findall(r"`((?:pipeline|train|tools|tests|docs)/[\w./]*)`", (CHECKOUT / page).read_text())
    assert len(named) > 10
    assert not [name for name in named if not (CHECKOUT / name).exists()]


@pytest.mark.slow
def test_make_docs_builds_the_site(tmp_path: Path) -> None:
    run(f"make -o {sys.prefix}/.ready docs VENV={sys.prefix}", copied(tmp_path))
    reference = (tmp_path / "checkout/build/site/docs/reference.html").read_text()
    assert 'id="res3d_video.pipeline.loader.ClipLoader"' in reference


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_a_page_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for link, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([\w-]+))?\)", page.read_text()):
        if re.match(r"\w+:", link):
            continue
        target = page.parent / link if link else page
        assert target.exists(), f"{name_of(page)}: {link}"
        assert not anchor or anchor in anchors(target), f"{name_of(page)}: {link}#{anchor}"


@pytest.mark.parametrize("folder", ["docs", "docs/benchmarks", "docs/decisions"])
def test_the_index_of_a_folder_names_every_page_there(folder: str) -> None:
    index = CHECKOUT / folder / "README.md"
    linked = {(index.parent / link).resolve() for link in re.findall(r"\]\(([^)#]+)[^)]*\)", index.read_text())}
    assert not [name_of(page) for page in index.parent.glob("*.md") if page != index and page not in linked]


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in links, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
