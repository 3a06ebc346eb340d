"""Data flows left to right, imports point right to left; and other promises about the tree."""

import ast
import doctest
import graphlib
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGES = {"pipeline": {"pipeline"}, "train": {"train", "pipeline"}, "tools": {"tools", "train", "pipeline"}}
MODULES = sorted(path for package in PACKAGES for path in (CHECKOUT / package).rglob("*.py"))
SCRIPTS = [*(CHECKOUT / "tools").glob("*.py"), CHECKOUT / "train/main.py", CHECKOUT / "train/models/__main__.py"]
COMMANDS = sorted(path for path in SCRIPTS if "def main(" in path.read_text())

# Of commands, loaded when their options are right.
BODIES = {"res3d_video.train.trainer", "res3d_video.tools.bench.command", "res3d_video.tools.bench.check"}


def dotted(path: Path) -> str:
    return ".".join(("res3d_video", *path.relative_to(CHECKOUT).with_suffix("").parts)).removesuffix(".__init__")


def imports_of(path: Path, *, skip: str = "$^") -> set[str]:
    """Modules that a program imports, also within functions; of `from a import b` both a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(re.sub(skip, "", path.read_text(), flags=re.MULTILINE))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_point_from_right_to_left(path: Path) -> None:
    allowed = PACKAGES[dotted(path).split(".")[1]]
    ours = {name.split(".")[1] for name in imports_of(path) if name.startswith("res3d_video.")}
    assert ours <= allowed


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_the_examples_in_docstrings_are_true(path: Path) -> None:
    assert doctest.testmod(importlib.import_module(dotted(path))).failed == 0


@pytest.mark.parametrize("path", [p for p in MODULES if p not in COMMANDS], ids=dotted)
def test_libraries_do_not_print_exit_or_read_the_environment(path: Path) -> None:
    if dotted(path) in {"res3d_video.pipeline", "res3d_video.train.terminal", *BODIES}:  # how commands talk
        return
    called = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
    assert not called & {"print", "sys.exit", "exit", "click.echo"}
    if dotted(path) not in {"res3d_video.train.ranks", "res3d_video.train.stopping"}:  # these know torchrun
        assert "os.environ" not in path.read_text()
        assert "os.getenv" not in path.read_text()


def test_no_module_is_named_like_a_standard_one() -> None:
    assert not {path.stem for path in MODULES} & set(sys.stdlib_module_names)


HELP_OF_COMMANDS = """
import contextlib, io, runpy, sys
for path in sys.argv[1:]:
    sys.argv[:] = [path, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        runpy.run_path(path, run_name="__main__")
    assert "Examples:" in out.getvalue(), path
    assert not [character for character in ("\\b", "x08") if character in out.getvalue()], path
"""


@pytest.mark.slow
def test_every_command_starts_by_path_from_any_folder_and_has_examples(tmp_path: Path) -> None:
    assert all(os.access(path, os.X_OK) for path in COMMANDS if path.name != "__main__.py")
    command = [sys.executable, "-c", HELP_OF_COMMANDS, *map(str, COMMANDS)]  # one process, for most load torch
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_console_command_of_setup_cfg_exists() -> None:
    entries = re.findall(r"^    res3d-[\w-]+ = ([\w.]+):(\w+)$", (CHECKOUT / "setup.cfg").read_text(), re.MULTILINE)
    assert {module for module, _ in entries} == {dotted(path) for path in COMMANDS}
    assert all(callable(getattr(importlib.import_module(module), name)) for module, name in entries)


def test_the_trainer_can_be_read_in_one_sitting() -> None:
    assert len((CHECKOUT / "train/trainer.py").read_text().splitlines()) < 300


def test_no_media_is_committed() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True).stdout.split("\n")
    assert not [f for f in files if re.search(r"\.(avi|mp4|mkv|webm|mov|mpg|jpg|tar|npy|pt)$", f)]


def test_what_is_installed_is_every_package_of_the_checkout() -> None:
    named = re.search(r"^packages =\n((?:    .+\n)+)", (CHECKOUT / "setup.cfg").read_text(), re.MULTILINE)
    assert set(named[1].split()) == {dotted(path) for path in MODULES if path.name == "__init__.py"}


def test_the_trainer_imports_no_more_than_45_of_our_modules() -> None:
    found, todo = set(), {"res3d_video.train.main"}
    paths = {dotted(path): path for path in MODULES}
    while todo:
        found |= todo
        todo = {name for one in todo for name in imports_of(paths[one])} & paths.keys() - found
    assert len(found) <= 45


NEEDED_LATE = ("torch", "nvidia.dali", "matplotlib", "scipy", "sklearn", "ray")
LOADED_FOR_HELP = """
import importlib, sys
for name in sys.argv[1].split():
    importlib.import_module(name)
    assert not [late for late in sys.argv[2].split() if late in sys.modules], name
"""


def test_no_command_loads_a_heavy_package_before_its_options_are_right() -> None:
    names = " ".join(dotted(path) for path in COMMANDS)
    done = subprocess.run(
        [sys.executable, "-c", LOADED_FOR_HELP, names, " ".join(NEEDED_LATE)],
        cwd=CHECKOUT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_no_import_leads_back_to_where_it_began() -> None:
    paths = {dotted(path): path for path in MODULES}
    types = r"^if TYPE_CHECKING:\n(?:    .*\n)+"
    graph = {name: imports_of(path, skip=types) & paths.keys() - {name} for name, path in paths.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError
