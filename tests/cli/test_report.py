"""`nasdeploy plot` as a user types it."""

import json
import sys
from pathlib import Path

import pytest

from nasdeploy.cli.main import main
from tests.workflows.test_report import made, run  # noqa: F401

pytestmark = pytest.mark.usefixtures("run")


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["nasdeploy", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


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
        (("frnt",), "unknown picture 'frnt'; did you mean 'front'?"),
        (("front", "runs/y"), "runs/y: no run there"),
        (("confusion",), "runs/x: no predictions of an exported classifier are known; go on with 'nasdeploy export'"),
        (("regimes",), "use 'nasdeploy evaluate'"),
        (("all", "--out", "x.png"), "--out x.png: all pictures do not go into one file; name a directory"),
        (("front", "--out", "/proc/x/y.png"), "/proc/x/y.png: cannot be written"),
    ],
)
def test_mistakes_end_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert ended(monkeypatch, "plot", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nasdeploy: ")
    assert words in err
    assert err.count("\n") == 1
