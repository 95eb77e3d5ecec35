"""`nasdeploy formats`."""

import json

import pytest
from typer.testing import CliRunner

from nasdeploy.cli.app import app
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.exporting.formats.tensorrt import TensorRtRtxFormat
from tests.test_torch_free import HEAVY, imported_by


def formats(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["formats", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_every_format_is_listed_with_what_is_lacking_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasdeploy.exporting.formats.format.find_spec", lambda name: None)
    found = {entry["format"]: entry for entry in json.loads(formats("--json"))["formats"]}
    assert list(found) == list(FORMATS)
    assert found["onnx"]["ready"]
    assert (found["onnx"]["lacking"], found["onnx"]["files"]) == ([], [".onnx"])
    assert found["openvino"]["lacking"] == ["run: pip install openvino"]
    monkeypatch.setenv("COLUMNS", "300")
    heading, *lines = formats().splitlines()
    assert heading.split()[:2] == ["format", "files"]
    assert [line.split()[0] for line in lines] == list(FORMATS)
    assert "run: pip install openvino" in formats()


def test_what_is_too_old_is_said_with_the_version_that_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasdeploy.exporting.formats.format.find_spec", lambda name: name)
    monkeypatch.setattr("nasdeploy.exporting.formats.format.version", lambda name: "2025.3.9rc1")
    assert FORMATS["openvino"].missing() == "pip install 'openvino>=2025.4'"
    monkeypatch.setattr("nasdeploy.exporting.formats.format.version", lambda name: "2025.10")
    assert FORMATS["openvino"].missing() is None


@pytest.mark.parametrize(
    ("here", "wanted", "said"),
    [
        (None, (), "no driver"),
        (None, ("SM86",), "not run here: it is for SM86, and no NVIDIA GPU is here"),
        ("SM89", (), None),
        ("SM89", ("SM86", "SM120"), "not run here: it is for SM86, SM120, and the GPU here is of SM89"),
        ("SM89", ("SM86", "SM89"), None),
    ],
)
def test_an_engine_runs_on_the_gpus_that_it_is_for(
    here: str | None, wanted: tuple[str, ...], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "nasdeploy.exporting.formats.tensorrt"
    monkeypatch.setattr(f"{place}.missing_gpu", lambda: None if here else "no driver")
    monkeypatch.setattr(f"{place}.compute_capability", lambda: here)
    assert TensorRtRtxFormat().not_run(wanted) == said


def test_neither_torch_nor_an_sdk_is_imported() -> None:
    found = imported_by("from nasdeploy.cli.main import main; main()", "formats")
    assert "nasdeploy" in found
    assert found & (HEAVY | {"openvino", "tensorrt", "tensorrt_rtx"}) == set()
