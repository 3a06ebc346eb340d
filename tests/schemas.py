"""What the commands write as JSON against docs/json.md: the page names every key, with its type, and no other."""

import re
from functools import cache
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "json.md"
KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "array": (list,),
    "object": (dict,), "null": (type(None),),
}  # fmt: skip
MAYBE = "maybe "  # before the type of a key that is not always there


@cache
def schemas() -> dict[str, dict[str, str]]:
    """Name of a heading of the page -> key -> type; `a.b` is within `a`, `a[].b` in each of `a`, `*` any name."""
    found: dict[str, dict[str, str]] = {}
    for part in re.split(r"^### ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", part, re.MULTILINE)
        for name in part.splitlines()[0].replace("`", "").split(", "):
            found[name] = {key: kind.strip() for key, kind in rows}
    return found


def check_schema(name: str, value: Any) -> None:
    """Fail unless the keys and types in `value`, or in each of its objects, are those of the page."""
    schema = schemas()[name]
    for one in value if isinstance(value, list) else [value]:
        check_keys(one, schema, path="", where=f"{name} in {PAGE.name}")


def check_keys(value: dict[str, Any], schema: dict[str, str], *, path: str, where: str) -> None:
    """One object, and the objects in it that the page goes into."""
    wanted = {key.removeprefix(path): kind for key, kind in schema.items() if is_child(key, path)}
    if "*" not in wanted:
        assert set(value) <= set(wanted), f"{where} lacks {path}{sorted(set(value) - set(wanted))}"
        always = {key for key, kind in wanted.items() if not kind.startswith(MAYBE)}
        assert always <= set(value), f"{where} has {path}{sorted(always - set(value))}, which is not written"
    for key, found in value.items():
        named = "*" if "*" in wanted else key
        kinds = wanted[named].removeprefix(MAYBE).split(" or ")
        is_right = any(is_kind(found, kind) for kind in kinds)
        assert is_right, f"{where}: {path}{key} is {found!r:.80}, not {wanted[named]}"
        inside, each = f"{path}{named}.", f"{path}{named}[]."
        within, objects = (inside, [found]) if isinstance(found, dict) else (each, found)
        if isinstance(found, dict | list) and any(other.startswith(within) for other in schema):
            for one in objects:
                check_keys(one, schema, path=within, where=where)


def is_child(key: str, path: str) -> bool:
    """Whether a key is directly within a path: "a.b" and "a[].b" are within "a." and "a[].", "a" within ""."""
    rest = key.removeprefix(path)
    return key.startswith(path) and "." not in rest


def is_kind(value: Any, kind: str) -> bool:
    """Whether a value is of a type of the page; a boolean is no number, an integer is one."""
    return isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))
