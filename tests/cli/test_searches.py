"""`nasdeploy search list|show|compare` on what searches left in a run."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nasdeploy.cli.app import app
from nasdeploy.cli.searches import describe
from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.searching.result import DifferenceRecord, LatencyBounds
from nasdeploy.store.files import write_json
from nasdeploy.store.networks import FinetuneRecord, HeldOutScore, finetune_directory
from nasdeploy.store.run import Run
from nasdeploy.workflows.searches import keep, next_id, result, results
from tests.searching import results as made
from tests.wording import assert_stops

FIRST = made.result(
    made.found("0" * 12, value=0.5, predicted=4.0, measured=4.25),
    made.at_most(latency_ms=5.0, macs=300.0),
    ties=("3" * 12,),
)
BOARD = made.NO_BOUNDS.model_copy(
    update={
        "latency": {
            "cpu": LatencyBounds(median_ms=(2.0, 5.0), p95_ms=None),
            "board": LatencyBounds(median_ms=None, p95_ms=(None, 9.0)),
        },
        "costs": {"memory": (1.0, None)},
    }
)
SECOND = made.result(
    made.found("1" * 12, value=0.525, latency={"cpu": made.latency_of(3.0, 3.5), "board": made.latency_of(8.0, 8.5)}),
    BOARD,
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    found = Run.create(Path("runs"), "x", recipe={}, space="s", classes=("a",), seed=0)
    for one in (FIRST, SECOND):
        with found.lock():
            keep(found, one.model_copy(update={"id": next_id(found)}))
    return found


def shown(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["search", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_searches_are_numbered_and_the_latest_is_the_export_s(run: Run) -> None:
    assert [one.id for one in results(run)] == ["1", "2"]
    assert json.loads(run.search_result.read_text())["id"] == result(run, None).id == "2"
    assert result(run, "1") == FIRST.model_copy(update={"id": "1"})


def test_the_tenth_comes_after_the_ninth(run: Run) -> None:
    for _ in range(8):
        keep(run, FIRST.model_copy(update={"id": next_id(run)}))
    assert [one.id for one in results(run)] == [str(n) for n in range(1, 11)]


def test_list_has_a_line_for_each(run: Run) -> None:
    lines = shown("list").splitlines()
    assert [line.split()[0] for line in lines] == ["search", "1", "2"]
    assert "cpu 5 ms, 300 M MACs" in lines[1] and "50.00 +- 1.00" in lines[1] and lines[1].endswith("4.25")
    assert "cpu 2..5 ms, board 9 ms (p95), 1.. MB activations" in lines[2] and lines[2].endswith("3.5, 8.5")
    assert [one["id"] for one in json.loads(shown("list", "--json"))["searches"]] == ["1", "2"]


def test_show_has_every_device_and_the_ties(run: Run) -> None:
    latest, first = shown("show"), shown("show", "1")
    assert latest.startswith("search 2, evolution, budget cpu 2..5 ms, board 9 ms (p95)")
    assert "measured ms on board" in latest and "8 +- 0.4" in latest and "8.5" in latest
    assert first.splitlines()[-1] == f"within one standard error of it: {'3' * 12}"
    assert json.loads(shown("show", "1", "--json"))["winner"]["digest"] == "0" * 12


def test_the_faster_network_that_is_no_worse_is_named_or_what_was_passed_over_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    difference = DifferenceRecord(value=-0.003, error=0.004, loss=0.0, loss_error=0.1)
    winner, other = (made.found(x * 12, predicted=4.0, measured=ms) for x, ms in (("0", 4.0), ("1", 3.5)))
    compared = other.model_copy(update={"difference": difference})
    found = made.result(winner, made.at_most(latency_ms=5.0), finalists=(winner, compared), faster=other.digest)
    told = f"{'1' * 12} takes 12 % less time and is not told to be worse: -0.30 +- 0.40 points (paired); --prefer fast"
    assert describe(found).splitlines()[-1] == f"{told} takes it"
    slower = winner.model_copy(update={"difference": difference.model_copy(update={"value": 0.003})})
    fast = found.model_copy(
        update={"winner": other, "finalists": (slower, other), "faster": "0" * 12, "best": "0" * 12}
    )
    assert describe(fast).splitlines()[-1] == (
        f"{'1' * 12} takes 12 % less time than {'0' * 12}, the best by rank, and is not told to be worse: "
        "-0.30 +- 0.40 points (paired)"
    )
    cheap = made.found("2" * 12, value=0.495, costs={"macs": 0.5})
    plain = made.result(winner, made.at_most(macs=300.0), finalists=(winner, cheap), ties=("2" * 12,), faster="2" * 12)
    assert describe(plain).splitlines()[-2:] == [
        f"within one standard error of it: {'2' * 12}",
        f"{'2' * 12} takes 50 % less MACs and is not told to be worse: -0.50 +- 1.00 points; --prefer fast takes it",
    ]


def test_compare_says_what_sets_the_winners_apart(run: Run) -> None:
    lines = shown("compare", "1", "2", "1").splitlines()
    assert "same network" in lines[1] and "+2.50 points" in lines[2] and "same network" in lines[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "7"], "runs/x: no search '7' in this run; there are: 1, 2 (see 'nasdeploy search list')"),
        (["show", "../1"], "runs/x: no search '../1' in this run; there are: 1, 2 (see 'nasdeploy search list')"),
        (["compare", "1"], "one search has nothing to be compared with; give the numbers of two or more"),
    ],
)
def test_mistakes(run: Run, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        shown(*arguments)
    assert typed(refused.value) == message


def test_results_of_versions_that_named_no_metric_and_knew_fewer_costs(run: Run) -> None:
    kept = json.loads(run.search_result.read_text())
    assert kept.pop("metric")["key"] == "top1"
    assert {"top1", "top1_error", "cross_entropy", "deployed_top1", "macs", "size_mb"} <= kept["winner"].keys()
    assert kept["images"] == 100 and kept["budget"]["memory_mb"] == [1.0, None]
    del kept["budget"]["weights_mb"]
    run.search_result.write_text(json.dumps(kept))
    assert result(run, None) == result(run, "2")
    assert "top-1 in %" in shown("show")


def test_results_of_another_version_are_named(run: Run) -> None:
    run.search_result.write_text('{"schema_version": 1}')
    with pytest.raises(UserError, match=r"search\.json: a search result in version 1 of its form, .* search again"):
        shown("show")


def test_a_run_without_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Run.create(Path("runs"), "x", recipe={}, space="s", classes=("a",), seed=0)
    assert shown("list") == "runs/x: no search has finished yet\n"
    with assert_stops(UserError, match="no search result yet; run 'nasdeploy search"):
        shown("show")


def test_networks_that_were_trained_further_are_told_with_their_scores(run: Run) -> None:
    assert json.loads(shown("show", "1", "--json"))["finetuned"] == []
    before, after = (HeldOutScore(value=value, error=0.1, loss=1.0, samples=20) for value in (0.5, 0.45))
    record = FinetuneRecord(digest="1" * 12, arch={}, epochs=3, before=before, after=after, kept=False)
    write_json(finetune_directory(run, "1" * 12) / "finetune.json", record.model_dump(mode="json"))
    line = (
        f"{'1' * 12} fine-tuned for 3 epochs: {SECOND.metric.name} on 20 held-out {SECOND.metric.samples} "
        f"{SECOND.metric.text(0.45)}, before {SECOND.metric.text(0.5)}; that is worse, so the inherited weights stay"
    )
    assert shown("show").splitlines()[-1] == line
    assert line not in shown("show", "1")
    assert shown("compare", "1", "2").splitlines()[-1] == line
    assert json.loads(shown("show", "2", "--json"))["finetuned"] == [record.model_dump(mode="json")]
