"""HTML of the report pages: the macros of pages.jinja, line charts as SVG with values on hover, clips as videos."""

import base64
import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator
from rich.filesize import decimal

from res3d_video.pipeline.index import ShardError, ShardIndex
from res3d_video.pipeline.reader import FrameFiles
from res3d_video.tools.run_reader import Curve
from res3d_video.tools.samples import encode_mp4, stored_frames
from res3d_video.train.config import flat

MAX_POINTS = 600  # of a curve
MAX_BANDS = 60  # parts of a chart, each of which shows its values on hover
MAX_FRAMES, MAX_HEIGHT = 256, 160  # of a clip; if it is longer, evenly spaced frames are shown


class Line(NamedTuple):
    """A curve of a chart; `style` selects its color and dashes, and a faint one shows no values on hover."""

    name: str
    curve: Curve
    style: int = 0
    is_faint: bool = False


class Clip(NamedTuple):
    """A clip that plays on a page: an MP4, or a fault that says why there is none."""

    caption: str
    video: bytes
    fault: str = ""


def render(macro: str, **values: Any) -> Markup:
    """Call a macro of pages.jinja; values are escaped unless they are Markup."""
    return getattr(_macros(), macro)(**values)


def video_of(index: ShardIndex, row: int, frames: np.ndarray, *, files: FrameFiles, fps: float, caption: str) -> Clip:
    """Stored frames of a sample as a small video; a damaged frame makes it a fault.

    Args:
        frames: Frame numbers, ascending.
        fps: Of all of them; if only every second one is shown, the video has half the rate.
    """
    step = -(-len(frames) // MAX_FRAMES)
    try:
        pictures = stored_frames(index, row, frames[::step], files=files)
    except ShardError as error:
        return Clip(caption, b"", fault=str(error))
    return Clip(caption, encode_mp4(pictures, fps=fps / step, crf=27, max_height=MAX_HEIGHT))


def line_chart(
    title: str, lines: Sequence[Line], *, write: Callable[[float], str], level: float | None = None, caption: str = ""
) -> Markup:
    """A chart of curves over steps; "" if they have no points.

    Args:
        write: Formats a value.
        level: A value at which to draw a horizontal line.
    """
    lines = [line for line in lines if len(line.curve.steps)]
    if not lines:
        return Markup("")
    shown = [line for line in lines if not line.is_faint]
    last = max(int(line.curve.steps[-1]) for line in lines) or 1
    largest = [
        float(line.curve.values[len(line.curve.steps) > 2 :].max()) for line in shown
    ]  # the first is the warm-up
    top = 1.05 * max([level or 0, *largest]) or 1.0
    steps = np.unique(np.concatenate([line.curve.steps for line in shown]))
    steps = steps[np.unique(np.linspace(0, len(steps) - 1, MAX_BANDS).round().astype(int))]
    edges = [0, *((steps[:-1] + steps[1:]) / 2).tolist(), last]
    return render(
        "line_chart",
        title=title,
        caption=caption,
        lines=[
            (line, (100 * curve.steps / last).round(2), np.clip(100 - 100 * curve.values / top, -50, 150).round(2))
            for line in lines
            for curve in [thin(line.curve)]
        ],
        y_ticks=ticks(top),
        x_ticks=ticks(last, is_whole=True),
        level=None if level is None else 100 - 100 * level / top,
        bands=[
            (
                100 * left / last,
                100 * (right - left) / last,
                step,
                [_value_text(line.curve, step, write) for line in shown],
            )
            for (left, right), step in zip(pairwise(edges), steps.tolist(), strict=True)
        ],
        names=[line.name for line in shown],
    )


def ticks(high: float, *, is_whole: bool = False) -> list[tuple[float, str]]:
    """A few round numbers on an axis from 0 to `high`: where they lie, 0 to 100, and as text.

    >>> ticks(9_000)
    [(0.0, '0'), (22.2, '2,000'), (44.4, '4,000'), (66.7, '6,000'), (88.9, '8,000')]
    """
    marks = np.asarray(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=is_whole).tick_values(0, high))
    return [(round(100 * mark / high, 1), f"{mark:,.9g}") for mark in marks.tolist() if 0 <= mark <= high]


def thin(curve: Curve, *, most: int = MAX_POINTS) -> Curve:
    """Reduce a curve to its ends, and the lowest and highest point in each of `most` / 2 equal parts.

    >>> thin(Curve(np.arange(8), np.array([5.0, 1, 2, 9, 3, 3, 7, 4])), most=4).values.tolist()
    [5.0, 1.0, 9.0, 3.0, 7.0, 4.0]
    """
    if len(curve.steps) <= most:
        return curve
    kept = {0, len(curve.steps) - 1}
    for part in np.array_split(np.arange(len(curve.steps)), most // 2):
        kept |= {int(part[np.argmin(curve.values[part])]), int(part[np.argmax(curve.values[part])])}
    places = np.array(sorted(kept))
    return Curve(curve.steps[places], curve.values[places])


def _value_text(curve: Curve, step: int, write: Callable[[float], str]) -> str:
    """The last value up to a step as text; a dash outside of the curve."""
    if not curve.steps[0] <= step <= curve.steps[-1]:
        return "–"
    return write(float(curve.values[np.searchsorted(curve.steps, step, side="right") - 1]))


def plural(count: int, one: str, several: str = "") -> str:
    """
    >>> plural(1, "class", "classes"), plural(2000, "group")
    ('1 class', '2,000 groups')
    """
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _hours_text(hours: float | None) -> str:
    if hours is None:
        return "unknown"
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def flatten(values: dict[str, Any]) -> dict[str, str]:
    """Every value of nested dicts as a short text.

    >>> flatten({"clip": {"resize": None}, "steps": 5})
    {'clip.resize': 'null', 'steps': '5'}
    """
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in flat(values).items()}
    return {
        name: text if len(text) <= 80 else f"{text[:40]}… ({len(text):,} characters)" for name, text in texts.items()
    }


@cache
def _macros() -> Any:
    source = files("res3d_video.tools.pages")
    environment = Environment(
        loader=PackageLoader("res3d_video.tools.pages", ""),
        autoescape=True,
        extensions=["jinja2.ext.do"],
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "base64": lambda content: base64.b64encode(content).decode("ascii"),
        "percent": lambda share: "–" if share is None else f"{100 * share:.1f} %",
        "size": decimal,
        "hours": _hours_text,
        "plural": plural,
        "n": "{:,}".format,
    }
    environment.globals |= {
        name: Markup(source.joinpath(f"page.{name}").read_text(encoding="utf-8")) for name in ("css", "js")
    }
    return environment.get_template("pages.jinja").module
