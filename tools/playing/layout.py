"""Where tiles stand: in a grid that fits a width, and boxes one below the other. Pure."""

from typing import NamedTuple


class Grid(NamedTuple):
    """Tiles in rows from left to right."""

    columns: int
    rows: int


def grid(count: int, *, tile_width: int, gap: int, width: int) -> Grid:
    """As few rows as fit into a width, and as few columns as those rows need, so that the last one is nearly full.

    >>> grid(16, tile_width=171, gap=8, width=1500), grid(10, tile_width=171, gap=8, width=1500)
    (Grid(columns=8, rows=2), Grid(columns=5, rows=2))
    """
    fitting = max(1, (width + gap) // (tile_width + gap))
    rows = -(-count // fitting)
    return Grid(-(-count // rows), rows)


def tile_corner(place: int, *, columns: int, tile_width: int, tile_height: int, gap: int) -> tuple[int, int]:
    """Left and top of a tile of a grid, pixels from the grid's corner.

    >>> tile_corner(5, columns=4, tile_width=100, tile_height=50, gap=10)
    (110, 60)
    """
    row, column = divmod(place, columns)
    return column * (tile_width + gap), row * (tile_height + gap)


def grid_size(shape: Grid, *, tile_width: int, tile_height: int, gap: int) -> tuple[int, int]:
    """Width and height of a grid, pixels.

    >>> grid_size(Grid(4, 2), tile_width=100, tile_height=50, gap=10)
    (430, 110)
    """
    return shape.columns * (tile_width + gap) - gap, shape.rows * (tile_height + gap) - gap


def default_zoom(height: int, *, wanted: int) -> float:
    """Whole pixels for one of a stored frame, so that it is drawn about as high as wanted, and never smaller.

    >>> default_zoom(128, wanted=256), default_zoom(256, wanted=128), default_zoom(64, wanted=128)
    (2.0, 1.0, 2.0)
    """
    return float(max(1, round(wanted / height)))


def durations_cs(count: int, *, frame_s: float) -> list[int]:
    """How long each picture of a GIF stays, hundredths of a second; together they take the right time.

    Players show what is shorter than 2 hundredths for 10, so none is.

    >>> durations_cs(4, frame_s=1 / 12.5), durations_cs(3, frame_s=1 / 30), durations_cs(2, frame_s=0.001)
    ([8, 8, 8, 8], [3, 4, 3], [2, 2])
    """
    ends = [round(100 * frame_s * n) for n in range(count + 1)]
    return [max(2, ends[n + 1] - ends[n]) for n in range(count)]
