"""Where names stand beside points, so that they cover neither each other nor anything else."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))  # right first, then left, above, …
DISTANCES = (4.0, 14.0, 28.0, 46.0, 70.0)  # pixels from the point's edge


class Box(NamedTuple):
    """A rectangle, pixels, y upwards."""

    left: float
    bottom: float
    right: float
    top: float

    @classmethod
    def around(cls, x: float, y: float, half_width: float, half_height: float | None = None) -> "Box":
        """The box with this centre; a square if only one half is given."""
        half_height = half_width if half_height is None else half_height
        return cls(x - half_width, y - half_height, x + half_width, y + half_height)


def shared_area(a: Box, b: Box) -> float:
    """Square pixels that two boxes share.

    >>> shared_area(Box(0, 0, 10, 10), Box(8, 5, 20, 20)), shared_area(Box(0, 0, 1, 1), Box(1, 0, 2, 1))
    (10, 0)
    """
    width, height = min(a.right, b.right) - max(a.left, b.left), min(a.top, b.top) - max(a.bottom, b.bottom)
    return width * height if width > 0 and height > 0 else 0


def place_labels(
    points: Sequence[Box], sizes: Sequence[tuple[float, float]], *, obstacles: Sequence[Box] = (), bounds: Box
) -> list[Box]:
    """A box for each point's name: the nearest free one, and where none is free the one that covers least.

    Args:
        points: What is drawn of each point.
        sizes: Width and height of each name.
        obstacles: What else names should not cover.
        bounds: Names stay inside.

    >>> place_labels([Box(0, 0, 10, 10)], [(20, 8)], bounds=Box(-50, -50, 50, 50))
    [Box(left=14.0, bottom=1.0, right=34.0, top=9.0)]
    """
    placed: list[Box] = []
    for point, size in zip(points, sizes, strict=True):
        taken = [*points, *obstacles, *placed]
        best, least = None, float("inf")
        for box in candidates(point, size):
            outside = size[0] * size[1] - shared_area(box, bounds)
            covered = 10 * outside + sum(shared_area(box, other) for other in taken)
            if covered < least - 1e-6:
                best, least = box, covered
            if least <= 1e-6:
                break
        assert best is not None
        placed.append(best)
    return placed


def candidates(point: Box, size: tuple[float, float]) -> Iterator[Box]:
    """Boxes of a name around a point, near ones first."""
    x, y = (point.left + point.right) / 2, (point.bottom + point.top) / 2
    half_width, half_height = size[0] / 2, size[1] / 2
    for distance in DISTANCES:
        for dx, dy in DIRECTIONS:
            part = 0.7071 if dx and dy else 1.0  # the corner of a square around a disc is farther away
            right = part * ((point.right - point.left) / 2 + distance) + half_width
            up = part * ((point.top - point.bottom) / 2 + distance) + half_height
            yield Box.around(x + dx * right, y + dy * up, half_width, half_height)
