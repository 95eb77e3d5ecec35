"""Boxes by numbers of an independent source, and a picture that shows them where they belong."""

from statistics import quantiles

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nasdeploy.report.figures import Box, Series, box_of, draw_boxes

EDGES = np.array([1e6, 2e6, 4e6, 8e6])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_five_numbers_are_those_of_the_standard_library(values):
    box = box_of(values)
    assert box is not None
    assert (box.count, box.minimum, box.maximum) == (len(values), min(values), max(values))
    expected = quantiles(values, n=4, method="inclusive")
    assert [box.first_quartile, box.median, box.third_quartile] == pytest.approx(expected)


def test_one_value_is_a_line_and_none_is_no_box():
    assert box_of([0.25]) == Box(1, 0.25, 0.25, 0.25, 0.25, 0.25)
    assert box_of([]) is None


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def test_each_series_has_its_colour_in_its_regimes(tmp_path):
    low, high = box_of([0.1, 0.2, 0.3]), box_of([0.7, 0.8, 0.9])
    draw_boxes(
        [Series("a", (low, None, None)), Series("b", (None, None, high))],
        EDGES,
        tmp_path / "x.png",
        "top-1 in %",
        100.0,
    )
    picture = pixels(tmp_path / "x.png")
    red, blue = picture[..., 0], picture[..., 2]
    first, second = (np.argwhere((a - b > 60) & (a > 150)) for a, b in ((blue, red), (red, blue)))
    legend = picture.shape[0] * 0.9
    first, second = (places[places[:, 0] < legend] for places in (first, second))
    assert len(first) > 500
    assert len(second) > 500
    assert first[:, 1].max() < picture.shape[1] / 2 < second[:, 1].min()
    assert second[:, 0].max() < first[:, 0].min(), "the better ones are higher up"


def test_many_series_and_regimes_have_a_wider_picture(tmp_path):
    box = box_of([0.1, 0.2, 0.3])
    edges = np.geomspace(1e6, 1e9, 11)
    draw_boxes([Series(str(n), (box,) * 10) for n in range(12)], edges, tmp_path / "x.png", "top-1 in %", 100.0)
    assert pixels(tmp_path / "x.png").shape[1] > 2000
