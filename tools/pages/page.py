"""The frame of a page: sections, tables, text that is safe in HTML, and the file it becomes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.shard_writer import write_atomically

MAX_PAGE_BYTES = 15_000_000


@dataclass(frozen=True)
class Section:
    """A part of a page that the navigation names.

    Attributes:
        name: Its id, in lower case and unique on the page.
        lead: One sentence: what is to be seen, or what it means.
        body: HTML; see `render`, `table` and the charts.
    """

    name: str
    title: str
    lead: str
    body: Markup


def render(template: str, **values: Any) -> Markup:
    """A template of tools/pages/templates, filled; values are escaped unless they are Markup.

    Raises:
        jinja2.UndefinedError: The template asks for a value that is not given.
    """
    return Markup(ENVIRONMENT.get_template(template).render(**values))


def page(title: str, *, about: str, facts: Mapping[str, str], sections: Sequence[Section]) -> str:
    """A whole HTML document with everything in it: styles, script, pictures.

    Args:
        about: One line below the title.
        facts: The few numbers a reader wants first: name -> value.
    """
    source = files("res3d_video.tools.pages")
    return render(
        "page.html",
        title=title,
        about=about,
        facts=facts,
        sections=sections,
        css=Markup(source.joinpath("page.css").read_text(encoding="utf-8")),
        script=Markup(source.joinpath("page.js").read_text(encoding="utf-8")),
    )


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    caption: str,
    is_sorted_by_click: bool = False,
    is_tall: bool = False,
) -> Markup:
    """A table in a box that scrolls by itself where the window is narrow; the first cell of a row is its heading.

    Numbers stand to the right: give them as numbers, or as text in `Number`.

    Args:
        rows: Each as long as `columns`; a cell is a number, a text or Markup.
        is_sorted_by_click: Whether a click on a column's heading sorts by it.
        is_tall: Whether it has more rows than a window; its box then scrolls downwards too.
    """
    values = {"columns": columns, "rows": rows, "caption": caption}
    return render("table.html", **values, is_sorted=is_sorted_by_click, is_tall=is_tall)


@dataclass(frozen=True)
class Number:
    """A number and how it is written: `Number(0.8231, "82.3 %")` is sorted by its value."""

    value: float
    text: str

    def __str__(self) -> str:
        return self.text


def write_page(path: Path, html: str) -> int:
    """Write a page whole or not at all; gives its size, bytes.

    Raises:
        ValueError: It is larger than MAX_PAGE_BYTES, which a browser on a phone would not thank us for.
        OSError: It cannot be written.
    """
    content = html.encode("utf-8", "replace")  # names may hold what UTF-8 has no bytes for
    if len(content) > MAX_PAGE_BYTES:
        raise UserError(
            f"{path}: the page has {len(content) / 1e6:.1f} MB, at most {MAX_PAGE_BYTES / 1e6:.0f} MB are right; "
            "ask for fewer clips"
        )
    write_atomically(path, content)
    return len(content)


def is_number(value: object) -> bool:
    """Whether a cell of a table is a number."""
    return isinstance(value, int | float | Number) and not isinstance(value, bool)


def sort_value(value: Any) -> Any:
    """By what a cell is sorted; HTML by its text."""
    if isinstance(value, Number):
        return value.value
    return value.striptags() if isinstance(value, Markup) else value


def attribute_json(value: Any) -> str:
    """JSON, short, for an attribute; escaped by the template."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("res3d_video.tools.pages"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["attribute_json"] = attribute_json
    environment.filters["sort_value"] = sort_value
    environment.tests["a_number"] = is_number
    return environment


ENVIRONMENT = _environment()

__all__ = ["MAX_PAGE_BYTES", "Markup", "Number", "Section", "escape", "page", "render", "table", "write_page"]
