"""matplotlib's drawings as SVG within a page: they take its colours, light or dark, and have words beside them."""

import io
import re
from typing import Any

from res3d_video.tools.bench.chart import load_matplotlib
from res3d_video.tools.pages.page import Markup, escape, render

# Stand-ins that matplotlib draws with; `chart` puts the page's variables in their place.
INK, MUTED, GRID, PANEL = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#010100", "#020200", "#030300", "#040400", "#050500", "#060600", "#070700")
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PANEL: "--panel"} | {
    color: f"--c{i}" for i, color in enumerate(SERIES, start=1)
}
DPI = 72  # matplotlib's SVG counts in points
LOOK: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 12, "axes.edgecolor": MUTED, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK, "grid.color": GRID,
    "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
    "axes.facecolor": "none", "figure.facecolor": "none", "savefig.facecolor": "none", "legend.frameon": False,
    "text.parse_math": False,  # names are text
}  # fmt: skip


class Chart:
    """A figure of matplotlib to draw in, and then HTML.

        with Chart("loss", title="Training loss", size=(440, 300)) as chart:
            chart.axes.plot(steps, losses, color=SERIES[0])
        html = chart.html(text="The loss falls from 4.5 to 0.02.", caption="…", numbers=table(…))

    Args:
        name: Unique on its page: ids within the SVG begin with it.
        size: Width and height, CSS pixels; 440 wide is readable on a phone.
    """

    def __init__(self, name: str, *, title: str, size: tuple[int, int] = (440, 300)) -> None:
        import matplotlib

        self.name, self.title = name, title
        figure_of, canvas_of = load_matplotlib()
        self._look = matplotlib.rc_context({**LOOK, "svg.hashsalt": name})
        with matplotlib.rc_context(LOOK):
            self.figure: Any = figure_of(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI, layout="constrained")
            canvas_of(self.figure)
        self._svg = ""

    @property
    def axes(self) -> Any:
        """The first axes, made when there are none."""
        return self.figure.axes[0] if self.figure.axes else self.figure.add_subplot()

    def __enter__(self) -> "Chart":
        self._look.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                file = io.StringIO()
                self.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
                self._svg = file.getvalue()
        finally:
            self._look.__exit__(*error)

    def html(self, *, text: str, caption: Markup | str, numbers: Markup | str = "") -> Markup:
        """The figure with its caption.

        Args:
            text: What is to be seen, for those who do not see it.
            numbers: A table of what is drawn, folded away.
        """
        svg = inline(self._svg, name=self.name, title=self.title, text=text)
        return render("chart.html", svg=svg, title=self.title, caption=caption, numbers=numbers)


def inline(svg: str, *, name: str, title: str, text: str) -> Markup:
    """An SVG document of matplotlib as an element of a page: its own ids, the page's colours, a title and a text."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    for side in ("width", "height"):  # the page says how large; viewBox keeps the proportions
        svg = re.sub(rf'(<svg[^>]*?) {side}="[^"]*"', r"\1", svg, count=1)
    label = f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(text)}</desc>'
    svg = svg.replace("<svg ", f'<svg role="img" aria-labelledby="{name}-t {name}-d" ', 1)
    begin = svg.index(">", svg.index("<svg ")) + 1
    return Markup(svg[:begin] + label + svg[begin:])
