import numpy as np
import pytest

from opensora.toy.outlines import CURVES, OUTLINES, POLYGON_AREA, POLYGONS, normalised, outline_of

GRID = (np.arange(400) - 199.5) / 100
X, Y = GRID[None, :], GRID[:, None]


@pytest.mark.parametrize("name", OUTLINES)
def test_an_outline_reaches_as_far_as_it_says_around_its_centroid(name):
    outline = outline_of(name)
    inside = outline.distance(X, Y, 1.0) < 0
    rows, columns = np.nonzero(inside)
    found = [-GRID[columns.min()], GRID[columns.max()], -GRID[rows.min()], GRID[rows.max()]]
    np.testing.assert_allclose(found, outline.reach, atol=0.02)
    np.testing.assert_allclose([GRID[columns].mean(), GRID[rows].mean()], 0, atol=0.01)


@pytest.mark.parametrize("name", OUTLINES)
def test_the_form_that_fills_a_box_is_the_one_that_is_drawn(name):
    outline = outline_of(name)
    left, right, up, down = outline.reach
    x, y = np.linspace(-left, right, 203)[None, 1:-1], np.linspace(-up, down, 203)[1:-1, None]
    drawn = outline.distance(x, y, 1.0) < 0
    filled = outline.inside((x + left) / (left + right), (y + up) / (up + down))
    assert (drawn == filled).mean() > 0.985


@pytest.mark.parametrize("name", OUTLINES)
def test_distances_are_those_of_the_outline_where_they_decide_about_a_pixel(name):
    distance = outline_of(name).distance(X, Y, 1.0)
    slope = np.hypot(*np.gradient(distance, 0.01))
    near = abs(distance) < 0.02
    assert np.median(slope[near]) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", POLYGONS)
def test_all_polygons_have_the_area_of_the_triangle(name):
    for shape in (name, "triangle"):
        area = (outline_of(shape).distance(X, Y, 1.0) < 0).sum() * 1e-4
        assert area == pytest.approx(POLYGON_AREA, rel=0.01)


def test_corners_may_stand_anywhere_in_any_size_and_order():
    square = [(10, 10), (12, 10), (12, 12), (10, 12)]
    half = np.sqrt(POLYGON_AREA) / 2
    np.testing.assert_allclose(normalised(square), half * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]))
    np.testing.assert_allclose(normalised(square[::-1]), normalised(square)[::-1])


def test_shapes_with_a_formula_keep_their_names():
    assert all(outline_of(name) is CURVES[name] for name in CURVES)
