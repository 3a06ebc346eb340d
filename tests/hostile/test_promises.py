"""What no line of the tree may do: start a shell, unpickle, follow a link into somebody's file."""

import ast
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
MODULES = sorted(path for package in ("pipeline", "train", "tools") for path in (CHECKOUT / package).rglob("*.py"))
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "os.execl", "os.execlp"}
UNPICKLERS = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def calls(path: Path) -> list[tuple[str, dict[str, str]]]:
    """Every call of a file: what is called, and its keywords."""
    return [
        (ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg})
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]


def dotted(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_no_shell_no_pickle_no_code_from_a_file(path: Path) -> None:
    for name, words in calls(path):
        assert name not in SHELLS | {"eval", "exec"}, name
        assert words.get("shell", "False") == "False", name
        assert words.get("allow_pickle", "False") == "False", name
        if name == "torch.load":
            assert words.get("weights_only") == "True"
        if name == "np.load":
            assert words.get("allow_pickle") == "False"
    tree = ast.parse(path.read_text())
    imported = {a.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    imported |= {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & UNPICKLERS


def test_only_our_own_videos_are_opened_without_a_guard() -> None:
    """What PyAV opens by name is what we wrote ourselves; raw videos go through `open_video` and `FrameReader`."""
    by_name = {
        dotted(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "av.open"
        if not ast.unparse(node.args[0]).startswith(("io.BytesIO", "'fd:'"))
        if [ast.unparse(word) for word in node.args[1:2]] != ["'w'"]  # that one writes
    }
    assert by_name <= {"tools/bench/peers.py"}


def test_a_tar_is_never_unpacked() -> None:
    for path in MODULES:
        for name, _ in calls(path):
            assert not name.endswith((".extractall", "tar.extract")), dotted(path)


@pytest.mark.parametrize(
    ("line", "bad"),
    [("subprocess.run(x, shell=True)", True), ("os.system(x)", True), ("subprocess.run(x)", False)],
)
def test_this_test_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, bad: bool) -> None:
    path = CHECKOUT / "pipeline/made_up.py"
    monkeypatch.setattr(Path, "read_text", lambda self: line)
    if bad:
        with pytest.raises(AssertionError):
            test_no_shell_no_pickle_no_code_from_a_file(path)
    else:
        test_no_shell_no_pickle_no_code_from_a_file(path)
