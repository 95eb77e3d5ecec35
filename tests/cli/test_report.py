"""`nasdeploy report` and `plot` as a user types them."""

import json
import shutil
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from nasdeploy.cli.main import main
from nasdeploy.cli.report import with_page
from nasdeploy.core.progress import Progress
from nasdeploy.report import page
from nasdeploy.report.run import RunReport
from nasdeploy.store.run import Run
from tests.test_torch_free import imported_by
from tests.workflows.test_report import made, run  # noqa: F401

pytestmark = pytest.mark.usefixtures("run")


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["nasdeploy", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


def test_the_page_of_the_latest_run_is_written_into_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, "report") == 0
    assert capsys.readouterr().out == "wrote runs/x/report.html\n"
    assert "<!doctype html>" in Path("runs/x/report.html").read_text(encoding="utf-8")


def test_json_holds_every_number_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, "report", "runs/x", "--json", "--quiet") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["page"] is None
    assert set(found["runs"][0]) == {"schema_version", *(field.name for field in fields(RunReport))}
    assert not Path("runs/x/report.html").exists()


def test_several_runs_are_one_page_and_remarks_name_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("runs/x", "runs/<b>y")
    Path("runs/<b>y/search.json").write_text('{"schema_version": 1}')
    assert ended(monkeypatch, "report", "runs/x", "runs/<b>y", "--out", "both.html", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["search"] is None for one in found["runs"]] == [False, True]
    (remark,) = found["runs"][1]["remarks"]
    assert remark.endswith("search again with 'nasdeploy search'")
    assert "<b>y" not in Path("both.html").read_text(encoding="utf-8")


def test_reports_and_pictures_leave_torch_alone() -> None:
    commands = (["report", "runs/x", "--json", "--quiet"], ["plot", "training", "runs/x"])
    calls = "; ".join(f"app({command}, standalone_mode=False)" for command in commands)
    found = imported_by(f"from nasdeploy.cli.app import app; {calls}")
    assert {"nasdeploy", "matplotlib"} <= found
    assert found & {"torch", "torchvision", "onnx"} == set()


def test_a_browser_that_is_missing_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert ended(monkeypatch, "report", "--open") == 2
    expected = "nasdeploy: --open: there is no browser here; the report is in runs/x/report.html"
    assert capsys.readouterr().err.startswith(expected)
    assert Path("runs/x/report.html").exists()


def test_a_page_that_cannot_be_made_does_not_fail_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def page_of(reports: object) -> str:
        raise ZeroDivisionError("no\nluck")

    monkeypatch.setattr(page, "page_of", page_of)
    assert with_page(Run.open(Path("runs/x")), Progress()) is None
    assert capsys.readouterr().err == "report: not written (no luck)\n"
    assert not Path("runs/x/report.html").exists()


def test_a_picture_is_written_as_png_and_svg(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, "plot", "front") == 0
    assert capsys.readouterr().out == "wrote runs/x/plots/front.png\nwrote runs/x/plots/front.svg\n"
    assert Path("runs/x/plots/front.svg").read_bytes().startswith(b"<?xml")


def test_all_pictures_go_into_a_directory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(monkeypatch, "plot", "all", "runs/x", "--out", "here", "--json", "--quiet") == 0
    pictures = json.loads(capsys.readouterr().out)["pictures"]
    assert sorted(map(str, Path("here").iterdir())) == sorted(pictures)
    assert {Path(path).stem for path in pictures} >= {"training", "networks", "front", "predicted", "stages"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("report", "runs/y"), "runs/y: no run there"),
        (("report", "runs/x", "runs/../runs/x"), "given twice; name each run once"),
        (("report", "--out", "/proc/x/y.html"), "/proc/x/y.html: cannot be written"),
        (("plot", "frnt"), "unknown picture 'frnt'; did you mean 'front'?"),
        (("plot", "front", "runs/y"), "runs/y: no run there"),
        (
            (
                "plot",
                "confusion",
            ),
            "runs/x: no predictions of an exported classifier are known; go on",
        ),
        (
            (
                "plot",
                "regimes",
            ),
            "use 'nasdeploy evaluate'",
        ),
        (("plot", "all", "--out", "x.png"), "--out x.png: all pictures do not go into one file; name a directory"),
        (("plot", "front", "--out", "/proc/x/y.png"), "/proc/x/y.png: cannot be written"),
    ],
)
def test_mistakes_end_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert ended(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nasdeploy: ")
    assert words in err
    assert err.count("\n") == 1
