"""docs/benchmark.md and docs/tuning.md explain every column, limit and setting that there is."""

import re
from dataclasses import fields

import pytest

from res3d_video.pipeline.settings import LoaderSettings
from res3d_video.tools.bench.results import COLUMNS
from tests.docs.blocks import CHECKOUT

BENCHMARK = (CHECKOUT / "docs/benchmark.md").read_text()
TUNING = (CHECKOUT / "docs/tuning.md").read_text()


def test_every_column_is_explained() -> None:
    assert not [header for header, _ in COLUMNS.values() if f"`{header}`" not in BENCHMARK]


@pytest.mark.parametrize("name", [field.name for field in fields(LoaderSettings)])
def test_every_setting_of_the_loader_is_explained_with_its_default(name: str) -> None:
    option = {"stall_timeout_s": "--stall-timeout"}.get(name, f"--{name.replace('_', '-')}")
    default = getattr(LoaderSettings(), name)
    row = re.search(rf"^\| `{option}` \| ([^|]+) \|", TUNING, re.MULTILINE)
    assert row is not None
    said = default if isinstance(default, str) else "off" if default is False else default and f"{default:g}"
    assert default is None or row[1].split(";")[0].strip() == said
