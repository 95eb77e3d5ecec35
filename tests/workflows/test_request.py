"""What a search is asked for: several devices, and every mistake in one line."""

from math import nan
from pathlib import Path

import pytest

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import InfeasibleBudget, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.latency.table import table_path
from nasdeploy.recipe import recipe_of
from nasdeploy.runtimes.device import Device, load_device
from nasdeploy.searching.budget import Range
from nasdeploy.store.evaluations import Evaluations
from nasdeploy.store.run import Run
from nasdeploy.tasks.metrics import TOP1
from nasdeploy.workflows.request import SearchRequest, latency_devices, request_search
from nasdeploy.workflows.search import search
from tests.exporting.models import DEVICE, supernet_of
from tests.searching.budgets import at_most
from tests.small_spaces import one_stage
from tests.wording import assert_stops
from tests.workflows.runs import SPACE, table_of, trained_run

BOARD = "name: board\nruntime: onnxruntime\nthreads: 2\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    made = trained_run(tmp_path)
    Path("board.yaml").write_text(BOARD)
    table_of(DEVICE).save(table_path(SPACE, DEVICE))
    board = load_device("board.yaml")
    table_of(board, 2e-4).save(table_path(SPACE, board))
    return made


def asked(run: Run, *assignments: str, strict: bool = False, **bounds) -> SearchRequest:
    return request_search(
        run,
        recipe_of(run, assignments),
        {name: (texts,) if isinstance(texts, str) else texts for name, texts in bounds.items()},
        strict,
        Progress(quiet=True),
    )


def test_each_device_has_its_table_and_its_budget(run: Run) -> None:
    found = asked(run, latency=("board.yaml=1", "cpu=50%"), latency_p95=("cpu=0.9",), macs="..1", memory="1")
    assert [device.name for device in found.devices] == ["board", "cpu"]
    assert [table.conditions.device for table in found.tables] == list(found.devices)
    fastest, slowest = found.tables[1].range(SPACE)
    assert found.budget.ranges == {
        "latency on board": at_most(1e-3),
        "latency on cpu": at_most(pytest.approx((fastest + slowest) / 2)),
        "latency_p95 on cpu": at_most(9e-4),
        "macs": at_most(1e6),
        "memory": at_most(1e6),
    }
    assert found.budget.devices == ("board", "cpu")


def test_parts_of_a_range_are_those_of_p95_where_that_is_bounded(run: Run) -> None:
    found = asked(run, latency_p95=("0%..100%",))
    low, high = found.tables[0].range(SPACE)
    ratio = found.tables[0].p95_ratio
    assert found.budget["latency_p95 on cpu"] == Range(pytest.approx(ratio * low), pytest.approx(ratio * high))


def test_multiples_are_of_what_the_largest_network_takes(run: Run) -> None:
    whole = asked(run, latency=("0.9x",))
    table = whole.tables[0]
    seconds = table.predict(SPACE.plan(SPACE.largest())).seconds
    assert whole.budget["latency on cpu"] == at_most(pytest.approx(0.9 * seconds))
    assert asked(run, latency_p95=("1x..",)).budget["latency_p95 on cpu"].low == pytest.approx(
        table.p95_ratio * seconds
    )


def test_without_bounds_the_recipe_decides(run: Run) -> None:
    found = asked(run, "search.latency=40%")
    assert found.budget.devices == ("cpu",)
    several = "search.latency={cpu: 40%, board.yaml: 50%}"
    assert asked(run, several).budget.devices == ("cpu", "board")
    assert [device.name for device in latency_devices(recipe_of(run, [several]), {})] == ["cpu", "board"]
    assert latency_devices(recipe_of(run, [several]), {"macs": ("1",)}) == []


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, "no budget given: use --latency-ms X, --latency 0.5x, --macs-m X or --params-m X"),
        ({"latency": ("1", "cpu=40%")}, "device cpu has two latency budgets; use one of them, or name another device "),
        ({"latency": ("cup=1",)}, "unknown device 'cup'; did you mean 'cpu'?"),
        ({"latency": ("cpu=",)}, "latency budget '': write milliseconds, such as 2.5ms, a part of the range"),
        ({"latency": ("fast",)}, "latency budget 'fast': write milliseconds, such as 2.5ms, a part of the range"),
        ({"macs": "-1"}, "--macs-m -1: give a finite number that is not negative, such as 5, or a range"),
        ({"size": ".."}, "--size-mb ..: a range has a bound at least on one side, such as 2..5, 2.. or ..5"),
        ({"latency": ("cpu-int8=1",)}, "profiles/tables/cpu-int8-tiny-"),
    ],
)
def test_mistakes_end_in_one_line(run: Run, bounds: dict, message: str) -> None:
    with pytest.raises(UserError) as refused:
        asked(run, **bounds)
    assert typed(refused.value).startswith(message)
    assert "\n" not in typed(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (
            {"latency": ("board.yaml=1e-3", "cpu=1")},
            "no network of this space has latency on board of 0.001 ms or less",
        ),
        ({"latency_p95": ("1e-3",)}, "no network of this space has median latency (p95: 1 times that) of 0.001 ms"),
        (
            {"macs": "2..1"},
            "no network of this space has MACs of 2 M or more and 1 M or less; the space reaches from",
        ),
        ({"latency": ("3..2",)}, "no network of this space has latency of 3 ms or more and 2 ms or less; the space"),
        (
            {"latency": ("2",), "latency_p95": ("3..",)},
            "no network of this space has median latency (p95: 1 times that) of 3 ms or more and 2 ms or less",
        ),
        ({"size": "1e-4"}, "no network of this space has file size of 0.0001 MB or less; the space reaches from"),
        (
            {"memory": "9.."},
            "no network of this space has peak activation memory of 9 MB or more; the space reaches",
        ),
    ],
)
def test_what_nothing_meets_is_answered_with_the_range(run: Run, bounds: dict, message: str) -> None:
    with pytest.raises(InfeasibleBudget) as refused:
        asked(run, **bounds)
    assert typed(refused.value).startswith(message)
    assert refused.value.exit_code == 3


def test_a_table_of_another_space(run: Run) -> None:
    path = table_path(SPACE, DEVICE)
    table_path(one_stage(4), DEVICE).write_bytes(path.read_bytes())
    other = table_of(DEVICE).model_copy(
        update={"conditions": table_of(DEVICE).conditions.model_copy(update={"space_digest": "0" * 12})}
    )
    other.save(path)
    with pytest.raises(UserError, match=r"^the latency table is of space tiny with 3 classes \(0{12}\), not of tiny"):
        asked(run, latency=("40%",))


def test_a_table_of_another_precision(run: Run) -> None:
    half = Device(name="cpu", runtime="onnxruntime", precision="fp16")
    table_of(half).save(table_path(SPACE, DEVICE))
    with pytest.raises(UserError) as refused:
        asked(run, latency=("40%",))
    assert typed(refused.value) == (
        "the latency table of device cpu is in fp16, and the device is in fp32 now; measure again with "
        "'nasdeploy profile --device cpu --restart'"
    )


def test_a_run_that_was_not_trained(run: Run) -> None:
    made = Run.create(
        Path("runs"),
        "y",
        recipe={**run.manifest.recipe, "name": "y"},
        space=SPACE.digest,
        classes=run.manifest.classes,
        seed=0,
    )
    with assert_stops(UserError, match=r"^runs/y: 'nasdeploy train' has not finished in this run; run it first$"):
        asked(made, macs="1")


def test_a_run_without_a_checkpoint(run: Run) -> None:
    for path in run.checkpoints.iterdir():
        path.unlink()
    with pytest.raises(
        UserError, match=r"^runs/x/checkpoints/epoch-E\.pt: the checkpoint that training ended with is gone"
    ):
        search(asked(run, macs="1"), Progress(quiet=True))


def test_a_database_of_another_supernet(run: Run) -> None:
    Evaluations(run.search_database, "0123456789abcdef", TOP1).close()
    with pytest.raises(
        UserError, match=r"search\.sqlite: holds evaluations of another supernet \(0123456789abcdef, not"
    ):
        search(asked(run, macs="1"), Progress(quiet=True))


def test_weights_that_are_no_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    supernet = supernet_of(SPACE)
    for parameter in supernet.parameters():
        parameter.data.fill_(nan)
    made = trained_run(tmp_path, supernet)
    with pytest.raises(UserError, match=r"no weights to compute with: .* holds NaN"):
        search(asked(made, macs="1"), Progress(quiet=True))
