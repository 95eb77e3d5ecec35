"""The picture of cuts is a PNG, and names those that save most for their loss."""

import numpy as np
import pytest
from PIL import Image

from nasdeploy.report.figures import PricedCut, best_priced, draw_cuts, priced_cuts
from nasdeploy.searching.budget import Budget
from nasdeploy.searching.loss_table import cuts
from nasdeploy.searching.problem import Problem
from tests.searching.losses import loss_table_of
from tests.small_spaces import grown

SPACE = grown()
PROBLEM = Problem(SPACE, Budget())
WHOLE = SPACE.plan(SPACE.largest()).macs
TABLE = loss_table_of(SPACE, lambda arch: SPACE.plan(arch).macs / WHOLE)


def test_a_cut_is_priced_by_what_it_saves_alone():
    priced = priced_cuts(PROBLEM, TABLE)
    assert len(priced) == len(list(cuts(SPACE)))
    for cut, one in zip(cuts(SPACE), priced, strict=True):
        assert one.saved == pytest.approx(1 - SPACE.plan(cut.arch).macs / WHOLE)
        assert one.loss == pytest.approx(one.saved)
    texts = {(one.group, one.text) for one in priced}
    assert {("resolution", "resolution 9"), ("stage 2", "depth 1, kernel_size 3, middle 50")} <= texts
    assert ("stage 3", "depth 1") in texts


def test_the_best_are_those_that_nothing_beats():
    rng = np.random.default_rng(0)
    drawn = [PricedCut("x", str(n), *rng.uniform(0, 1, 2).tolist()) for n in range(60)]
    beaten = [
        any(
            (two.saved >= one.saved and two.loss < one.loss) or (two.saved > one.saved and two.loss <= one.loss)
            for two in drawn
        )
        for one in drawn
    ]
    expected = [one for one, is_beaten in zip(drawn, beaten, strict=True) if not is_beaten]
    assert best_priced(drawn) == sorted(expected, key=lambda one: -one.saved)
    assert best_priced([PricedCut("x", "saves nothing", 0.0, 0.0)]) == []


def test_the_picture_is_drawn_in_colour(tmp_path):
    path = tmp_path / "cuts.png"
    draw_cuts(PROBLEM, TABLE, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.size == (960, 600)
        colours = picture.convert("RGB").getcolors(1 << 20)
    assert sum(count for count, (r, g, b) in colours if max(r, g, b) - min(r, g, b) > 60) > 200
