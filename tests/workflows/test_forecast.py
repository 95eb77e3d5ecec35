"""`search --dry-run`: what a search would come to."""

from pathlib import Path

import pytest

from nasdeploy.cli.searches import forecast_text
from nasdeploy.core.progress import Progress
from nasdeploy.latency.table import table_path
from nasdeploy.recipe import recipe_of
from nasdeploy.workflows.request import request_search
from nasdeploy.workflows.search import search
from nasdeploy.workflows.searches import forecast
from tests.exporting.models import DEVICE
from tests.workflows.runs import SEARCH, SPACE, table_of, trained_run

QUIET = Progress(quiet=True)


def test_a_forecast_knows_range_size_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = trained_run(tmp_path)
    table_of(DEVICE).save(table_path(SPACE, DEVICE))
    request = request_search(run, recipe_of(run), {"latency": ("100%",), "params": ("1",)}, False, QUIET)
    first = forecast(request, Progress())
    assert "one network is, to see how long it takes" in capsys.readouterr().err
    latency, params = first.reaches
    assert (latency.low, latency.high) == pytest.approx([1e3 * end for end in request.tables[0].range(SPACE)])
    assert (params.name, params.asked) == ("parameters", "1 M")
    assert first.feasible.count == pytest.approx(SPACE.size)
    assert (first.evaluations, first.known) == (SEARCH["parents"], 1)
    assert first.seconds > first.evaluations * first.seconds_each > 0
    assert forecast(request, Progress()) == first
    assert capsys.readouterr().err == ""


def test_evaluations_of_earlier_searches_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = trained_run(tmp_path)
    request = request_search(run, recipe_of(run), {"macs": ("0..1",)}, False, QUIET)
    found = search(request, QUIET)
    assert found is not None
    expected = forecast(request, QUIET)
    assert expected.known == found.evaluated == SEARCH["parents"]
    assert expected.measuring == 0
    lines = forecast_text(expected).splitlines()
    assert lines[0].startswith("MACs") and lines[0].endswith("asked for: 1 M")
    assert lines[1].endswith(f"{SPACE.size} combinations of choices, 100 % of the space")
    assert "at most in a round, 4 networks are known already" in lines[2]
