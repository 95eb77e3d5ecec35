"""The Pareto picture is a PNG that shows what was found."""

import pytest
from PIL import Image

from nasdeploy.report.figures import draw_front
from nasdeploy.report.networks import front_report
from nasdeploy.searching.result import NetworkRecord, SearchResult
from tests.searching import results


def found(value: float, cost: float, *, latency: bool, measured: float | None = None) -> NetworkRecord:
    predicted = {"predicted": cost, "measured": measured} if latency else {}
    return results.found(
        value=value, costs={"macs": int(cost * 1e6), "params": int(cost * 1e5), "weights": cost}, **predicted
    )


def result(*, latency: bool = False, **bounds: float) -> SearchResult:
    winner = found(0.8, 4.0, latency=latency, measured=4.1 if latency else None)
    front = tuple(found(0.5 + 0.1 * n, 1.0 + n, latency=latency) for n in range(4))
    budget = results.at_most(latency_ms=4.5 if latency else None, **bounds)
    return results.result(winner, budget, front=front)


@pytest.mark.parametrize(
    "of", [result(latency=True), result(macs=5.0), result(params=0.5), result(size=1.5), result(weights=2.5)]
)
def test_picture_is_drawn_in_colour(of, tmp_path):
    path = tmp_path / "pareto.png"
    draw_front(front_report(of), of.metric, [(1e-3 * n, 0.4 + 0.1 * n) for n in range(1, 5)], path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.size == (960, 600)
        colours = picture.convert("RGB").getcolors(1 << 20)
    reds = sum(count for count, (r, g, b) in colours if r > 180 and g < 90 and b < 90)
    blues = sum(count for count, (r, g, b) in colours if b > 150 and r < 90)
    assert reds > 50
    assert blues > 50
