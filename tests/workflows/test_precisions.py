"""One budget in several precisions."""

from dataclasses import replace
from pathlib import Path

import pytest

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import InfeasibleBudget, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.score import Score
from nasdeploy.latency.table import table_path
from nasdeploy.recipe import recipe_of
from nasdeploy.runtimes.device import load_device
from nasdeploy.searching.result import SearchResult, load_result
from nasdeploy.store.run import Run
from nasdeploy.workflows import evaluator as deployed
from nasdeploy.workflows.export import request_export
from nasdeploy.workflows.request import SearchRequest, parse_precisions, request_searches
from nasdeploy.workflows.search import search_all
from nasdeploy.workflows.searches import results
from tests.exporting.models import timing
from tests.wording import assert_stops
from tests.workflows.runs import SPACE, table_of, trained_run

QUIET = Progress(quiet=True)
BOTH = ("fp32", "int8")
SECONDS = {"cpu": 1e-4, "cpu-int8": 0.5e-4, "board": 1e-4, "board-int8": 1e-4}
"""Of a block on each device."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    made = trained_run(tmp_path)
    Path("board.yaml").write_text("name: board\nruntime: onnxruntime\nthreads: 2\n")
    Path("board-int8.yaml").write_text("name: board-int8\nruntime: onnxruntime\nprecision: int8\nthreads: 2\n")
    for name in ("cpu", "cpu-int8", "board.yaml", "board-int8.yaml"):
        device = load_device(name)
        table_of(device, SECONDS[device.name]).save(table_path(SPACE, device))
    return made


@pytest.fixture
def as_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(archs, network_of, space, device, progress):
        return {arch: timing(SECONDS[device.name] * len(SPACE.plan(arch).steps)) for arch in archs}

    monkeypatch.setattr("nasdeploy.workflows.search.measure_networks", measured)


def asked(run: Run, *latency: str, precisions=BOTH, **bounds) -> list[SearchRequest]:
    return request_searches(
        run, recipe_of(run), {"latency": latency, **bounds} if latency else bounds, precisions, False, QUIET
    )


def test_precisions_are_read_once_each() -> None:
    assert parse_precisions("fp32, int8,fp32") == ["fp32", "int8"]
    for text in ("", ","):
        with assert_stops(UserError, match=r"^--precision: none given; write e\.g\. fp32,int8$"):
            parse_precisions(text)
    with pytest.raises(UserError, match=r"^unknown precision 'int9'; did you mean 'int8'\?$"):
        parse_precisions("fp32,int9")


@pytest.mark.parametrize(
    ("latency", "devices"),
    [
        ("1", ["cpu", "cpu-int8"]),
        ("cpu=1", ["cpu", "cpu-int8"]),
        ("cpu-int8=1", ["cpu", "cpu-int8"]),
        ("board.yaml=1", ["board", "board-int8"]),
        ("board-int8.yaml=1", ["board", "board-int8"]),
    ],
)
def test_each_precision_has_a_device_of_its_own(run: Run, latency: str, devices: list[str]) -> None:
    requests = asked(run, latency)
    assert [request.devices[0].name for request in requests] == devices
    assert [request.tables[0].conditions.device.precision for request in requests] == ["fp32", "int8"]
    assert [one.high for request in requests for one in request.budget.ranges.values()] == [1e-3, 1e-3]


def test_one_precision_takes_a_part_of_its_range(run: Run) -> None:
    (request,) = asked(run, "40%", precisions=("int8",))
    assert request.devices == (load_device("cpu-int8"),)


def test_a_precision_that_cannot_meet_the_budget_is_left_out(run: Run) -> None:
    slowest = 1e3 * table_of(load_device("cpu-int8"), SECONDS["cpu-int8"]).range(SPACE)[1]
    assert slowest < 1e3 * table_of(load_device("cpu")).range(SPACE)[0]
    (request,) = asked(run, f"{slowest}")
    assert request.devices[0].precision == "int8"
    with pytest.raises(InfeasibleBudget, match="no network of this space has latency of 1e-05 ms or less"):
        asked(run, "1e-5")


@pytest.mark.parametrize(
    ("latency", "bounds", "message"),
    [
        (("40%",), {}, "latency budget '40%': it comes to another in each precision; give millisec"),
        ((), {"macs": ("1",)}, "--precision: a precision is chosen by its latency; give a budget with --latency-ms X"),
        (("cpu-torch=1",), {}, "--precision int8: device cpu-torch would be cpu-torch-int8 in it: unknown device"),
        (("odd.yaml=1",), {}, "--precision int8: device odd-int8 is in fp32; correct its file"),
        (("two.yaml=1",), {}, "--precision int8: batch of device two-int8 is 4, of two 1, so that their latencies do"),
    ],
)
def test_mistakes_end_in_one_line(run: Run, latency: tuple[str, ...], bounds: dict, message: str) -> None:
    for name, more in {"odd": "", "odd-int8": "", "two": "", "two-int8": "precision: int8\nbatch: 4\n"}.items():
        Path(f"{name}.yaml").write_text(f"name: {name}\nruntime: onnxruntime\n{more}")
        table_of(load_device(f"{name}.yaml")).save(table_path(SPACE, load_device(f"{name}.yaml")))
    table_of(load_device("cpu-torch")).save(table_path(SPACE, load_device("cpu-torch")))
    with pytest.raises(UserError) as refused:
        asked(run, *latency, **bounds)
    assert typed(refused.value).startswith(message)
    assert "\n" not in typed(refused.value)


def searched(run: Run, monkeypatch: pytest.MonkeyPatch, in_int8: float) -> SearchResult:
    """With networks that have so much more accuracy in int8 than in fp32."""
    score = deployed._score

    def shifted(arch, request, evaluator, *rest) -> Score:
        made = score(arch, request, evaluator, *rest)
        return replace(made, value=evaluator(arch).value + in_int8)

    monkeypatch.setattr(deployed, "_score", shifted)
    return search_all(asked(run, "1"), QUIET)


@pytest.mark.usefixtures("as_predicted")
@pytest.mark.parametrize(("in_int8", "precision", "device"), [(0.1, "int8", "cpu-int8"), (-0.1, "fp32", "cpu")])
def test_the_most_accurate_network_of_both_is_chosen(
    run: Run, monkeypatch: pytest.MonkeyPatch, in_int8: float, precision: str, device: str
) -> None:
    best = searched(run, monkeypatch, in_int8)
    assert (best.precision, best.devices) == (precision, (device,))
    assert load_result(run.search_result) == best
    in_fp32, in_8_bits = results(run)
    assert [in_fp32.precision, in_8_bits.precision] == ["fp32", "int8"]
    assert in_fp32.winner.deployed_value is None
    assert (
        in_8_bits.winner.final_value
        == in_8_bits.winner.deployed_value
        == pytest.approx(in_8_bits.winner.value + in_int8)
    )
    assert best.winner.final_value == max(in_fp32.winner.final_value, in_8_bits.winner.final_value)
    # Which is what an export without further options is for.
    assert request_export(run, recipe_of(run), None, None, QUIET).device == load_device(device)


@pytest.mark.usefixtures("as_predicted")
def test_finalists_are_ranked_as_they_are_deployed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network that is best in fp32 loses everything in int8."""
    (request,) = asked(run, "1", precisions=("int8",))
    best_in_fp32 = search_all([request], QUIET).winner.digest
    (run.path / "search.int8.onnxruntime.sqlite").unlink()
    score = deployed._score

    def ruined(arch, *rest) -> Score:
        made = score(arch, *rest)
        return replace(made, value=0.0) if arch.digest == best_in_fp32 else replace(made, value=0.9)

    monkeypatch.setattr(deployed, "_score", ruined)
    result = search_all([request], QUIET)
    assert result.winner.digest != best_in_fp32
    assert result.winner.deployed_value == 0.9
    ranked = {found.digest: found.deployed_value for found in result.finalists}
    assert ranked[best_in_fp32] == 0.0
