"""What a report holds of a run in any state: trained, half damaged, of an earlier version, or without anything."""

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import nasdeploy as nd
from nasdeploy.core.errors import UserError
from nasdeploy.core.score import Score
from nasdeploy.latency.table import TABLES, LatencyTable, table_path
from nasdeploy.report.run import RunReport
from nasdeploy.runtimes.device import load_device
from nasdeploy.store.evaluations import Evaluation, Evaluations, kept_evaluations
from nasdeploy.store.run import Run
from nasdeploy.tasks.metrics import TOP1
from nasdeploy.workflows.report import report_of
from nasdeploy.workflows.searches import keep
from tests.report.test_record import line
from tests.searching import results
from tests.workflows.runs import SPACE, table_of, trained_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a run that has got to everything but an export."""
    root = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run, device = trained_run(root), load_device("cpu")
        run.metrics.write_text("".join(json.dumps(line(epoch)) + "\n" for epoch in (1, 2)))
        table_of(device).save(table_path(SPACE, device))
        with Evaluations(run.search_database, "supernet", TOP1) as kept:
            for arch, value in ((SPACE.smallest(), 0.5), (SPACE.largest(), 0.75)):
                kept.put(Evaluation(arch.digest, arch.text, Score(TOP1, value, 0.01, 8, 1.0), 0.1))
        largest = SPACE.largest()
        winner = results.found(largest.digest, largest.to_json(), 0.75, predicted=0.4, measured=0.41)
        with run.lock():
            keep(run, results.result(winner, results.at_most(latency_ms=0.5), id="1", space=SPACE.digest))
        run.finish("search", {})
    return root


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return Run.open(Path("runs/x"))


def as_json(report: RunReport) -> dict:
    """The report by way of the text that it becomes, which has to be JSON."""
    return json.loads(json.dumps(report.to_json(), allow_nan=False))


def test_everything_that_the_run_has_got_to_is_there(run: Run) -> None:
    found = as_json(report_of(run))
    assert found["remarks"] == []
    assert found["summary"]["finished"] == ["train", "search"]
    assert found["training"][0]["epochs"] == [1, 2]
    assert [one["value"] for one in found["sub_networks"]["networks"]] == [0.5, 0.75]
    assert found["tables"][0]["device"] == "cpu"
    assert [one["role"] for one in found["networks"]] == ["smallest", "chosen", "largest"]
    assert found["search"]["winner"]["digest"] == SPACE.largest().digest == found["networks"][1]["digest"]
    assert found["reproduction"]["commands"] == [
        "nasdeploy train x.yaml",
        "nasdeploy profile --device cpu",
        "nasdeploy search --latency-ms cpu=0.5",
    ]


def test_reading_changes_nothing(run: Run) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    report_of(run)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_tables_are_found_from_anywhere(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = run.path.resolve()
    monkeypatch.chdir(tmp_path)
    (table,) = report_of(Run.open(path)).tables
    assert table.file == str(table_path(SPACE, load_device("cpu"), path.parents[1] / TABLES))


@pytest.mark.parametrize("torn", ["", '{"epoch": 2, "los'])
def test_a_run_in_the_middle_of_training_shows_what_is_there(run: Run, torn: str) -> None:
    for path in (run.search_result, run.search_database, run.path / "searches"):
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
    run.metrics.write_text(json.dumps(line(1)) + "\n" + torn)
    found = report_of(run)
    assert (found.training[0].epochs, found.search, found.sub_networks) == ((1,), None, None)


def test_a_run_without_anything_is_refused_in_one_line(run: Run) -> None:
    run.metrics.unlink()
    for path in (run.search_result, run.search_database, *Path("profiles/tables").iterdir()):
        path.unlink()
    # Weights that were imported can be drawn, though nothing was learned here.
    assert [one.role for one in report_of(run).networks] == ["smallest", "largest"]
    manifest = json.loads((run.path / "manifest.json").read_text())
    (run.path / "manifest.json").write_text(json.dumps({**manifest, "finished": {}}))
    run = Run.open(run.path)
    with pytest.raises(UserError, match=r"^runs/x: nothing to show yet, .*`nd\.train\(run=runs/x\)`$"):
        report_of(run)


def test_a_run_of_another_version_of_its_space_is_refused_in_one_line(run: Run) -> None:
    manifest = json.loads((run.path / "manifest.json").read_text())
    (run.path / "manifest.json").write_text(json.dumps({**manifest, "space": "0" * 12}))
    with pytest.raises(UserError, match="begun with another version of space"):
        report_of(Run.open(run.path))


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("metrics.jsonl", "{]\n", "training"),
        ("search.json", '{"schema_version": 1}', "search"),
        ("search.json", "[", "search"),
        ("search.sqlite", "no database at all, but long enough for one" * 50, "sub_networks"),
        ("evaluate.json", '{"runs": 7}', None),
        ("evaluate.json", '{"edges_macs_m": [1, Infinity], "runs": []}', None),
        ("export/x/manifest.json", '{"digest": 7}', "exports"),
    ],
)
def test_damaged_parts_are_named_and_the_others_shown(run: Run, name: str, content: str, part: str | None) -> None:
    (run.path / name).parent.mkdir(parents=True, exist_ok=True)
    (run.path / name).write_text(content)
    for suffix in ("-wal", "-shm"):
        Path(f"{run.search_database}{suffix}").unlink(missing_ok=True)
    found = report_of(run)
    (remark,) = found.remarks
    assert remark.startswith(f"runs/x/{name}")
    assert "\n" not in remark
    assert part is None or not getattr(found, part)
    assert found.tables


@pytest.mark.parametrize("key", ["measured_ms", "uncertainty_ms", "top1"])
def test_numbers_that_are_none_are_taken_for_damage(run: Run, key: str) -> None:
    text = run.search_result.read_text()
    run.search_result.write_text(re.sub(rf'"{key}": [0-9.]+', f'"{key}": Infinity', text))
    found = report_of(run)
    assert found.search is None
    (remark,) = found.remarks
    assert remark.startswith("runs/x/search.json: ")


def test_a_table_without_some_blocks_is_named_and_left_out(run: Run) -> None:
    (path,) = Path("profiles/tables").iterdir()
    table = LatencyTable.load(path)
    entries = dict(list(table.entries.items())[1:])
    table.model_copy(update={"entries": entries}).save(path)
    found = report_of(run)
    assert found.tables == ()
    (remark,) = found.remarks
    assert "has no entry for" in remark


def test_runs_of_versions_that_remembered_less_are_shown(run: Run) -> None:
    manifest = json.loads((run.path / "manifest.json").read_text())
    less = {key: value for key, value in manifest.items() if key not in ("data", "images", "outputs", "range")}
    (run.path / "manifest.json").write_text(json.dumps(less))
    run.split.unlink()
    found = report_of(Run.open(run.path))
    assert (found.summary.images, found.reproduction.data_digest, found.remarks) == ({}, None, ())


def test_regimes_are_those_of_the_run(run: Run) -> None:
    box = {"count": 1, "minimum": 0.1, "first_quartile": 0.1, "median": 0.2, "third_quartile": 0.3, "maximum": 0.3}
    mine = {"run": "b", "space": SPACE.digest, "regimes": [None, box]}
    entries = [{"run": "a", "space": "other", "regimes": [box, box]}, mine]
    (run.path / "evaluate.json").write_text(json.dumps({"edges_macs_m": [1, 2, 4], "runs": entries, "images": "x"}))
    found = report_of(run).sub_networks
    assert found is not None
    assert [(one.low_macs, one.high_macs, one.box is None) for one in found.regimes] == [
        (1e6, 2e6, True),
        (2e6, 4e6, False),
    ]


def test_evaluations_are_read_without_knowing_the_supernet(run: Run) -> None:
    assert [one.score.value for one in kept_evaluations(run.search_database, TOP1)] == [0.5, 0.75]
    assert kept_evaluations(run.path / "other.sqlite", TOP1) == []
    assert np.isfinite([one.seconds for one in kept_evaluations(run.search_database, TOP1)]).all()


def test_rows_of_a_stranger_that_are_no_evaluations_are_left_out(tmp_path: Path) -> None:
    rows = [("x", "{}", 0.5, 0.1, 1.0, 8, 0.1), (7, 7, "<b>", 0.1, 1.0, 8, 0.1), ("y", "{}", 0.5, 0.1, None, "8", 0.1)]
    with closing(sqlite3.connect(tmp_path / "x.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE evaluations (digest, arch, top1, top1_error, cross_entropy, images, seconds)")
        connection.executemany("INSERT INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute("PRAGMA user_version = 2")
    assert [one.digest for one in kept_evaluations(tmp_path / "x.sqlite", TOP1)] == ["x"]


def test_python_writes_the_page_of_a_run_and_of_several(run: Run, tmp_path: Path) -> None:
    assert nd.write_report(run) == Path("runs/x/report.html")
    shutil.copytree(run.path, tmp_path / "y")
    both = nd.write_report([run, Run.open(tmp_path / "y")], str(tmp_path / "both.html"))
    assert both.stat().st_size > run.path.joinpath("report.html").stat().st_size
    assert nd.report_of(run).summary.name == "x"


def test_an_export_is_shown_once_whatever_the_path_of_the_run(run: Run) -> None:
    folder = run.path / "export" / "one"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    run.finish("export", {"directory": str(folder)})
    found = report_of(Run.open(run.path.resolve()))
    assert len([remark for remark in found.remarks if "manifest.json" in remark]) == 1
