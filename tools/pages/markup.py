"""HTML of the report pages: the macros of pages.jinja, charts as SVG with hover values, and the file it becomes."""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.files import write_atomically
from res3d_video.tools.run_reader import Curve

MAX_PAGE_BYTES = 15_000_000
MAX_POINTS = 600  # drawn of a curve
MAX_BANDS = 60  # parts of a chart that each say their values under the pointer
MAX_BARS = 30


class Cell(NamedTuple):
    """A number in a table: how it sorts, how it is written, and a bar behind it as long as `share`, 0 to 1."""

    value: float
    text: str
    share: float | None = None


PLAIN_NAMES = {
    "clip.crop_size": "crop, pixels",
    "clip.frame_stride": "frame stride",
    "clip.num_frames": "frames in a clip",
    "clip.resize": "resized to, pixels",
    "crf": "H.264 quality (CRF, lower is better)",
    "data": "dataset",
    "drop_odd": "every second frame dropped",
    "eval_clips": "clips a video in the last evaluation",
    "fps": "resampled to, frames/s",
    "fps_policy": "frame rate",
    "frame_step": "source frames to one stored",
    "global_batch_size": "batch size of all processes",
    "gop_size": "frames from keyframe to keyframe",
    "keep_aspect": "aspect ratio kept",
    "model.name": "model",
    "name": "codec",
    "optim.lr": "learning rate",
    "phase_stride": "strips hold every n-th frame",
    "quality": "JPEG quality",
    "samples_per_shard": "samples in a tar",
    "schedule.kind": "learning rate schedule",
    "segment_s": "length of a segment, seconds",
    "size": "short side, pixels",
    "strip_frames": "frames in a JPEG",
    "test_segments": "segments of a test video",
    "tile_height": "height of a frame, pixels",
    "tile_width": "width of a frame, pixels",
    "train_segments": "segments of a training video",
    "world_size": "processes",
}


def number(value: float | None, text: str, share: float | None = None) -> Cell:
    """A number for a table, or a dash that sorts below all others."""
    return Cell(-1, "–") if value is None else Cell(value, text, share)


@dataclass(frozen=True)
class Line:
    """A curve of a chart.

    Attributes:
        style: Which of the page's colors and dashes it has; those of a run are the same in all charts.
        is_faint: Drawn behind the others, without values to read.
    """

    name: str
    curve: Curve
    style: int = 0
    is_faint: bool = False


def render(macro: str, *values: Any, **named: Any) -> Markup:
    """A macro of pages.jinja; all values are escaped unless they are Markup.

    Raises:
        jinja2.UndefinedError: The macro asks for a value that is not given.
    """
    return getattr(_macros(), macro)(*values, **named)


def write_page(path: Path, html: str) -> int:
    """Write a page whole or not at all; gives its size, bytes.

    Raises:
        UserError: It is larger than MAX_PAGE_BYTES.
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


def data_uri(content: bytes, kind: str) -> str:
    """An image as an address that needs no network.

    >>> data_uri(b"hi", "png")
    'data:image/png;base64,aGk='
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    unit: str,
    write: Callable[[float], str],
    is_log: bool = False,
    level: tuple[float, str] | None = None,
    caption: str = "",
) -> Markup:
    """Curves over steps; "" without a point.

    Args:
        unit: Of the values, beside the title.
        write: A value as text.
        is_log: Whether the values' axis is logarithmic; else it begins at 0.
        level: A value marked by a line across, and what it means.
    """
    lines = [line for line in lines if len(line.curve.steps)]
    if not lines:
        return Markup("")
    shown = [line for line in lines if not line.is_faint]
    last = max(int(line.curve.steps[-1]) for line in lines) or 1
    values = np.concatenate([line.curve.values for line in lines])
    if is_log:
        high = float(np.log10(values.max(initial=1e-12)))
        marks = np.arange(np.floor(max(np.log10(max(values.min(), 1e-12)), high - 4)), np.ceil(high + 1e-9) + 1)
        y_marks, low, top = 10.0**marks, float(marks[0]), float(marks[-1])
    else:
        own = [line.curve.values[1:] if len(line.curve.values) > 2 else line.curve.values for line in shown]
        low, top = 0.0, 1.05 * max(float(part.max()) for part in [*own, np.array([level[0] if level else 0])]) or 1.0
        y_marks = ticks(top)

    def up(value: np.ndarray) -> np.ndarray:
        """Percent of the chart's height."""
        return 100 * ((np.log10(np.maximum(value, 1e-12)) if is_log else value) - low) / (top - low)

    steps = np.unique(np.concatenate([line.curve.steps for line in shown]))
    steps = steps[np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MAX_BANDS)).round().astype(int))]
    said = [
        [write(value) if (value := value_at(line.curve, step)) is not None else "–" for line in shown]
        for step in steps.tolist()
    ]
    rows = list(zip(steps.tolist(), said, strict=True))
    edges = [0.0, *((a + b) / 2 for a, b in pairwise(steps.tolist())), float(last)]
    drawn = []
    for line in lines:
        points = thin(line.curve)
        places = zip(
            (100 * points.steps / last).round(2).tolist(), (100 - up(points.values)).round(2).tolist(), strict=True
        )
        drawn.append((line, [(x, min(max(y, -50), 150)) for x, y in places]))
    return render(
        "line_chart",
        title=title,
        unit=unit,
        caption=caption,
        lines=drawn,
        names=[line.name for line in shown],
        y_ticks=[(float(place), short_count(mark)) for place, mark in zip(up(y_marks), y_marks.tolist(), strict=True)],
        x_ticks=[(100 * mark / last, short_count(mark)) for mark in ticks(last, whole=True).tolist()],
        level=None if level is None else (float(up(np.array(level[0]))), level[1]),
        bands=[
            (100 * a / last, 100 * (b - a) / last, step, own)
            for a, b, (step, own) in zip(edges[:-1], edges[1:], rows, strict=True)
        ],
        rows=[[step, *own] for step, own in [*rows[: -1 : -(-len(rows) // 12)], rows[-1]]],
    )


def histogram(title: str, values: np.ndarray, counts: np.ndarray, *, unit: str) -> Markup:
    """How often values occur: a bar for each of few, else for ranges of them.

    Args:
        values, counts: Different values, rising, and how many samples have each.
    """
    if len(values) <= 8:
        edges = np.arange(len(values) + 1.0)
        heights, labels = counts, [f"{value:.6g}" for value in values.tolist()]
        x_ticks = [(100 * (i + 0.5) / len(values), label) for i, label in enumerate(labels)]
    else:
        edges = bin_edges(values)
        heights, _ = np.histogram(values, bins=edges, weights=counts)
        labels = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges.tolist())]
        span = edges[-1] - edges[0]
        x_ticks = [
            (100 * (mark - edges[0]) / span, short_count(mark)) for mark in ticks(edges[-1], low=edges[0]).tolist()
        ]
    top, span = 1.05 * float(heights.max()), edges[-1] - edges[0]
    return render(
        "histogram",
        title=title,
        unit=unit,
        y_ticks=[(100 * mark / top, short_count(mark)) for mark in ticks(top, whole=True).tolist()],
        x_ticks=x_ticks,
        bars=[
            (100 * (left - edges[0]) / span, 100 * (right - left) / span, 100 * count / top, label, int(count))
            for left, right, count, label in zip(edges[:-1], edges[1:], heights.tolist(), labels, strict=True)
        ],
        rows=[[label, int(count)] for label, count in zip(labels, heights.tolist(), strict=True) if count],
    )


def ticks(high: float, *, low: float = 0.0, whole: bool = False) -> np.ndarray:
    """A few round numbers from `low` to `high`.

    >>> ticks(1.05).round(9).tolist(), ticks(9_000).tolist(), ticks(3, whole=True).tolist()
    ([0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 2000.0, 4000.0, 6000.0, 8000.0], [0.0, 1.0, 2.0, 3.0])
    """
    width = round_width((high - low) / 5, (1, 2, 2.5, 5, 10))
    width = max(round(width), 1) if whole else width
    return (np.arange(np.ceil(low / width - 1e-9), np.floor(high / width + 1e-9) + 1) + 0.0) * width  # no -0


def bin_edges(values: np.ndarray) -> np.ndarray:
    """Edges of about MAX_BARS bins as wide as 1, 2 or 5 times a power of ten; of whole numbers at least 1 wide.

    >>> bin_edges(np.array([29, 383]))[[0, 1, -1]].tolist(), bin_edges(np.array([0.4, 2.9])).round(2).tolist()[:3]
    ([20.0, 40.0, 400.0], [0.4, 0.5, 0.6])
    """
    low, high = float(values.min()), float(values.max())
    width = round_width((high - low) / MAX_BARS, (1, 2, 5, 10))
    width = max(width, 1.0) if np.issubdtype(values.dtype, np.integer) else width
    return np.arange(np.floor(low / width), np.floor(high / width) + 2) * width


def round_width(least: float, digits: Sequence[float]) -> float:
    """The smallest of `digits` times a power of ten that is not less than `least`."""
    least = max(least, 1e-9)
    power = 10.0 ** np.floor(np.log10(least))
    return float(next(digit * power for digit in digits if digit * power >= least * (1 - 1e-9)))


def short_count(value: float) -> str:
    """
    >>> [short_count(value) for value in (0.25, 950, 2_500, 90_000, 3e6, 1e-05)]
    ['0.25', '950', '2.5k', '90k', '3M', '1e-05']
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def thin(curve: Curve, *, most: int = MAX_POINTS) -> Curve:
    """The lowest and the highest point of each of `most` / 2 equal parts, and both ends: what a narrow line would show.

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


def value_at(curve: Curve, step: int) -> float | None:
    """The last value up to a step; None before the first and after the last step."""
    if not curve.steps[0] <= step <= curve.steps[-1]:
        return None
    return float(curve.values[np.searchsorted(curve.steps, step, side="right") - 1])


def percent(share: float | None) -> str:
    """
    >>> percent(0.98765), percent(None)
    ('98.8 %', '–')
    """
    return "–" if share is None else f"{100 * share:.1f} %"


def bytes_text(count: int) -> str:
    """
    >>> bytes_text(223_190_000), bytes_text(1_500), bytes_text(12)
    ('223 MB', '1.5 kB', '12 B')
    """
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def hours_text(hours: float | None) -> str:
    """
    >>> hours_text(27.04), hours_text(0.4166), hours_text(0.0005), hours_text(None)
    ('27 h', '25 min', '2 s', 'unknown')
    """
    if hours is None:
        return "unknown"
    if hours >= 1:
        return f"{hours:,.3g} h"
    return f"{60 * hours:.0f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"


def plural(count: int, one: str, several: str = "") -> str:
    """
    >>> plural(1, "class", "classes"), plural(2000, "group")
    ('1 class', '2,000 groups')
    """
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def plain_name(name: str) -> str:
    """A setting's name for people.

    >>> plain_name("optim.lr"), plain_name("optim.weight_decay"), plain_name("loader.num_threads")
    ('learning rate', 'weight decay', 'loader: num threads')
    """
    part, _, field = name.rpartition(".")
    return PLAIN_NAMES.get(name) or (f"{part}: " if part in ("loader", "step", "versions") else "") + field.replace(
        "_", " "
    )


def setting_text(value: Any) -> str:
    """A setting for people.

    >>> setting_text(None), setting_text(True), setting_text(0.5), setting_text({"a": [1]})
    ('–', 'yes', '0.5', '{"a": [1]}')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:40]}… ({len(text):,} characters)"


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
        "looks": lambda style: f"s{style % 7} d{style % 4}",  # 28 differ, neighbors in both
        "json": lambda value: json.dumps(value, separators=(",", ":")),
        "uri": data_uri,
        "percent": percent,
        "size": bytes_text,
        "hours": hours_text,
        "plural": plural,
        "n": "{:,}".format,
        "rate": lambda value: "–" if value is None else f"{value:,.1f}",
        "plain": plain_name,
        "setting": setting_text,
    }
    environment.tests["cell"] = lambda value: isinstance(value, Cell)
    environment.globals |= {"cell": Cell, "number": number} | {
        name: Markup(source.joinpath(f"page.{name}").read_text(encoding="utf-8")) for name in ("css", "js")
    }
    return environment.get_template("pages.jinja").module
