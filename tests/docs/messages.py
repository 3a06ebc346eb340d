"""Error messages: those that the code can raise, and those that docs/troubleshooting.md explains."""

import ast
import re
from dataclasses import dataclass
from functools import cache

from tests.docs.blocks import CHECKOUT

PAGE = CHECKOUT / "docs/troubleshooting.md"
GAP = "\0"  # what an f-string fills in
SOURCES = sorted(path for package in ("pipeline", "train", "tools") for path in (CHECKOUT / package).rglob("*.py"))


@dataclass(frozen=True)
class Raised:
    """A message of a raise statement."""

    path: str
    line: int
    kind: str  # the exception's name, or the function's that makes it
    text: str  # with GAP for what is filled in

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.kind}: {self.text.replace(GAP, '…')}"


def text_of(node: ast.expr) -> str:
    """The text of a string expression, GAP for every part that is not written out."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(value) if isinstance(value, ast.Constant) else GAP for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    return GAP


@cache
def texts_of_the_code() -> list[str]:
    """Every string in the code that has a word."""
    trees = [ast.parse(path.read_text()) for path in SOURCES]
    texts = {text_of(node) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.expr)}
    return sorted(text for text in texts if re.search(r"\w{2}", text))


@cache
def raised() -> list[Raised]:
    """Every message of a raise statement, or of click's `fail`, that has a word of its own; others pass one on."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            call = node.exc if isinstance(node, ast.Raise) else node
            if isinstance(call, ast.Call) and call.args:
                kind = ast.unparse(call.func).split(".")[-1]
                if call is node and kind != "fail":  # of click's types, which raises
                    continue
                text = max(map(text_of, call.args), key=len)
                if re.search(r"\w{2} ", text):
                    found.append(Raised(path.relative_to(CHECKOUT).as_posix(), node.lineno, kind, text))
    return found


@cache
def documented() -> list[str]:
    """The messages of the page, … for what differs."""
    return re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE)


def pattern_of(message: str) -> re.Pattern[str]:
    """A documented message as a pattern of the code's texts; … may stand for anything, also for words."""
    return re.compile(".*".join(map(re.escape, message.split("…"))), re.DOTALL)
