"""What every command has: both flags for scripts, help that is not cut off, and texts that fit a terminal."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from nasdeploy.cli import export, models, searches, train
from nasdeploy.cli.app import app
from nasdeploy.searching.result import DifferenceRecord
from tests.searching import results

WITHOUT_FLAGS: dict[str, str] = {}
"""Commands for which `--json` or `--quiet` makes no sense, with the reason."""


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands by the words that call them; groups that do something by themselves, too."""
    for name, command in group.commands.items():
        words = (*path, name)
        if not hasattr(command, "commands") or command.invoke_without_command:
            yield words, command
        if hasattr(command, "commands"):
            yield from commands(command, words)


ALL = dict(commands(typer.main.get_command(app)))
QUICK = [
    *(["devices"], ["formats"], ["doctor"], ["space", "list"], ["space", "show", "digits"]),
    ["space", "show", "alphanet", "--arch", "smallest"],
]
"""Commands that need no run."""


def run(*words: str, columns: int = 80) -> Any:
    return CliRunner().invoke(app, words, env={"COLUMNS": str(columns)}, catch_exceptions=False)


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_results_are_had_as_json_and_without_progress(words: tuple[str, ...]) -> None:
    options = {option for parameter in ALL[words].params for option in parameter.opts}
    if " ".join(words) not in WITHOUT_FLAGS:
        assert {"--json", "--quiet"} <= options


def test_reasons_are_given_for_commands_that_there_are() -> None:
    assert set(WITHOUT_FLAGS) <= {" ".join(words) for words in ALL}


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_json_is_one_object_and_quiet_says_nothing_else(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*words, "--json", "--quiet")
    assert isinstance(json.loads(done.stdout), dict)
    assert done.stderr == ""


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_texts_fit_eighty_columns_and_use_more_where_there_are(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    narrow, wide = run(*words).stdout, run(*words, columns=400).stdout
    assert max(map(len, narrow.splitlines())) <= 80
    assert len(wide.splitlines()) <= len(narrow.splitlines())
    assert not {"\x1b", "…"} & {*narrow, *wide}


SPREAD = DifferenceRecord(value=-0.003, error=0.004, loss=0.0, loss_error=0.1)
LATENCY = {name: results.latency_of(123.456, 234.567) for name in ("cpu", "jetson-orin-fp16", "raspberry-pi-5")}
NETWORK = results.found("0" * 12, predicted=123.456, measured=234.567).model_copy(
    update={"latency": LATENCY, "original": True, "difference": SPREAD, "deployed_value": 0.4567}
)
SEARCH = results.result(NETWORK, results.at_most(latency_ms=200.0, macs=300e6, memory=123.4)).model_copy(
    update={
        "devices": tuple(LATENCY),
        "strategy": "predictor-guided",
        "ties": ("1" * 12, "2" * 12, "3" * 12),
        "as_fast": ("1" * 12, "2" * 12, "3" * 12),
    }
)
FIGURES = {f"{name}_ms": 1234.5678 for name in ("median", "p10", "p90", "p95")}
MODEL = {
    "model": "torchvision:mobilenet_v3_large",
    "megabytes": 123.456,
    **FIGURES,
    "processes_ms": [1234.5678, 2345.6789],
    "noise": "its runs varied by more than 5 % " * 3,
    "ties": ["timm:tf_efficientnet_lite0", "runs/photos/export/0123456789ab"],
    "images_per_s": 1234.5678,
    "throughput_s": 1.0,
    "after_gaps": {"gap_ms": 100.0, **FIGURES},
}
BENCH = {"device": "jetson-orin-fp16", "runtime": "tensorrt", "batch": 128, "threads": 16, "models": [MODEL, MODEL]}
FRONT = {
    "digest": "0123456789ab",
    "macs_m": 1234.5678,
    "params_m": 123.4567,
    "megabytes": 123.456,
    "top1": 0.98765,
    "top1_interval": [0.98765, 0.99876],
    "median_ms": 123.4567,
    "p95_ms": 1234.567,
}
BOX = dict.fromkeys(("minimum", "first_quartile", "median", "third_quartile", "maximum"), 0.98765)
EVALUATED = {
    "edges_macs_m": [100.0, 12345.0],
    "images": "12345 held-out training images",
    "runs": [{"run": "runs/a-rather-long-name", "unreadable": 12, "regimes": [{"count": 50, **BOX}]}],
}
TABLES = {
    "search show": lambda: searches.describe(SEARCH),
    "search list": lambda: searches.listed([SEARCH, SEARCH]),
    "search compare": lambda: searches.compared([SEARCH, SEARCH]),
    "bench": lambda: models._latencies(BENCH),
    "export --all-pareto": lambda: export._front_text([FRONT, FRONT]),
    "evaluate": lambda: train._evaluated(Path("runs/a-rather-long-name/evaluate.png"), EVALUATED),
}
"""Tables of figures as wide as they get; those of latency tables and runtimes are in the tests of these."""


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_many_and_large_figures_fit_eighty_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = TABLES[name]()
    assert max(map(len, text.splitlines())) <= 80
    monkeypatch.setenv("COLUMNS", "400")
    wide = TABLES[name]()
    assert "(not shown" not in wide and len(wide.splitlines()) < len(text.splitlines())


@pytest.mark.parametrize("words", [(), *sorted({words[:-1] for words in ALL if len(words) > 1})], ids=" ".join)
def test_help_is_not_cut_off(words: tuple[str, ...]) -> None:
    listed = run(*words, "--help").stdout.partition("Commands:")[2]
    assert listed and "..." not in listed
    assert max(map(len, listed.splitlines())) <= 80
