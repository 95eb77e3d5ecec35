"""What the program that measures on a phone says."""

import pytest

from nasdeploy.latency.protocol import MeasurementProtocol, Rounds
from nasdeploy.latency.runners.benchmark_model import Inferences, VisitLength, inferences_in

WARMED = "INFO: count=9 first=87112 curr=51629 min=51629 max=87112 avg=58147.4 std=11478 p5=51629 median=51962\n"
END = "INFO: Inference timings in us: Init: 5579, First inference: 87112, Warmup (avg): 58147.4, Inference (avg): 50000"


@pytest.mark.parametrize(
    ("statistics", "found"),
    [
        (
            "INFO: count=50 first=1249964 curr=1240143 min=1238588 max=1252566 avg=1.24027e+06 std=2565 p5=1238753 "
            "median=1239807 p95=1247415",
            Inferences(50, 1.239807, 1.24027),
        ),
        ("count=5 first=157195 curr=159511 min=149738 max=161935 avg=156669", Inferences(5, 0.156669, 0.156669)),
        ("count=5 curr=4208(all same)", Inferences(5, 0.004208, 0.004208)),
        ("I tflite  : count=1 curr=12 p5=12 median=12 p95=12", Inferences(1, 12e-6, 12e-6)),
    ],
)
def test_the_runs_that_count_are_those_after_the_first(statistics, found):
    read = inferences_in(f"INFO: STARTING!\n{WARMED}\n{statistics}\n\n{END}\n")
    assert (read.calls, read.seconds) == (found.calls, pytest.approx(found.seconds))
    assert read.mean == pytest.approx(found.mean)


@pytest.mark.parametrize(
    "output", ["", END, f"{WARMED}{END}", WARMED * 2, f"{WARMED}count=0 \n{END}", f"{WARMED}count=3 avg=0\n{END}"]
)
def test_what_says_nothing_of_them_is_no_timing(output):
    assert inferences_in(output) is None


def test_a_visit_is_as_long_as_the_protocol_wants():
    protocol = MeasurementProtocol(kept=5)
    assert VisitLength.of(Rounds(50, 5), protocol, 50) == VisitLength(3, 5, pytest.approx(0.008))
    assert VisitLength.of(Rounds(16, 10), protocol, 1) == VisitLength(3, 5, pytest.approx(0.2))
    assert VisitLength.of(Rounds(16, 10, idle_s=0.5), protocol, 1) == VisitLength(1, 5, 0.0, 0.5)
