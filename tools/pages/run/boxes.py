"""Small pieces of a page: remarks, boxes, things to unfold."""

from collections.abc import Iterable

from res3d_video.tools.pages.page import Markup


def joined(parts: Iterable[Markup], *, box: str = "") -> Markup:
    """HTML one after the other, in a box of a class of the style sheet."""
    inner = Markup("").join(parts)
    return Markup('<div class="{}">{}</div>').format(box, inner) if box else inner


def by_run(table: Markup) -> Markup:
    """A table with a column a run, whose long names break."""
    return Markup('<div class="by-run">{}</div>').format(table)


def note(text: str, *, warning: bool = False) -> Markup:
    """A remark in a box of its own."""
    return Markup('<p class="note{}">{}</p>').format(" warning" if warning else "", text)


def folded(summary: str, body: Markup, *, is_open: bool = False) -> Markup:
    """Something that a click shows."""
    return Markup("<details{}><summary>{}</summary>{}</details>").format(
        Markup(" open" if is_open else ""), summary, body
    )
