"""tools/figures/cost.py: names that cover nothing where there is room."""

import itertools

from res3d_video.tools.figures.cost import Box, candidates, place_labels, shared_area

PAGE = Box(0, 0, 400, 400)


def test_shared_area_is_the_same_as_counting_unit_squares() -> None:
    a = Box(2, 2, 5, 6)
    for left, bottom in itertools.product(range(8), range(8)):
        b = Box(left, bottom, left + 3, bottom + 2)
        squares = [(x, y) for x in range(20) for y in range(20)]
        both = [s for s in squares if all(c.left <= s[0] < c.right and c.bottom <= s[1] < c.top for c in (a, b))]
        assert shared_area(a, b) == len(both)


def test_no_candidate_covers_its_point_and_the_first_is_to_the_right() -> None:
    point = Box.around(100, 100, 10)
    boxes = list(candidates(point, (40, 12)))
    assert boxes[0] == Box(114, 94, 154, 106)
    assert all(shared_area(box, point) == 0 for box in boxes[:4])


def test_names_of_crowded_points_cover_neither_points_nor_obstacles_nor_each_other() -> None:
    points = [Box.around(150 + 24 * i, 200 + 3 * i, 10) for i in range(5)]
    obstacles = [Box(100, 215, 300, 219)]
    placed = place_labels(points, [(50, 14)] * 5, obstacles=obstacles, bounds=PAGE)
    for box, other in itertools.combinations([*placed, *points, *obstacles], 2):
        if box in placed:
            assert shared_area(box, other) == 0
    assert all(shared_area(box, PAGE) == 50 * 14 for box in placed)


def test_a_name_at_the_right_edge_goes_to_the_left() -> None:
    assert place_labels([Box.around(390, 200, 5)], [(60, 10)], bounds=PAGE) == [Box(321, 195, 381, 205)]


def test_where_nothing_is_free_the_name_that_covers_least_is_taken() -> None:
    page = Box(0, 0, 40, 20)
    (box,) = place_labels([Box.around(20, 10, 5)], [(60, 10)], obstacles=[page], bounds=page)
    assert shared_area(box, page) == max(shared_area(b, page) for b in candidates(Box.around(20, 10, 5), (60, 10)))
