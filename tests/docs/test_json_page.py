"""docs/json.md: every command that writes JSON is on it, and a test holds each table against what is written."""

import importlib
import re

import click

from tests.docs.blocks import CHECKOUT
from tests.schemas import schemas

ENTRIES = re.findall(r"^    res3d-[\w-]+ = ([\w.]+):main$", (CHECKOUT / "setup.cfg").read_text(), re.MULTILINE)
NAMES = {"res3d_video.train.main": "train", "res3d_video.train.models.__main__": "models"}


def test_every_command_that_writes_json_has_a_table() -> None:
    found = set()
    for module in ENTRIES:
        main, name = importlib.import_module(module).main, NAMES.get(module, module.rpartition(".")[2])
        group = main.commands if isinstance(main, click.Group) else {}
        for own, command in ({f"{name} {sub}": c for sub, c in group.items()} or {name: main}).items():
            if any("--json" in param.opts for param in command.params):
                found.add("make_shards" if own.startswith("make_shards ") else own)
    assert not found - set(schemas())


def test_a_test_holds_every_table_against_what_is_written() -> None:
    calls = "\n".join(path.read_text() for path in (CHECKOUT / "tests").rglob("test_*.py"))
    checked = set(re.findall(r"check_schema\(\"([^\"]+)\"", calls))
    events = {f"metrics.jsonl {event}" for event in ("train", "eval", "final")}  # in a loop of tests/train/test_main.py
    assert 'check_schema(f"metrics.jsonl {event}"' in calls
    assert checked | events >= set(schemas())
