"""Exports for LiteRT: in int8 within a limit, and files that take the device's batch."""

import json
from pathlib import Path

import pytest

from nasdeploy.core.errors import CheckFailed
from nasdeploy.exporting.bundle.predict import main as predict
from nasdeploy.exporting.bundle.write import load_bundle
from nasdeploy.exporting.formats import plan_jobs
from tests.exporting.models import DEVICE, exporter
from tests.small_spaces import one_stage


def test_int8_of_a_batch_is_calibrated_proved_and_run_by_the_bundles_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device, out = DEVICE.model_copy(update={"batch": 3}), tmp_path / "out"
    exporter(tmp_path).export(one_stage().named["t0"], out, plan_jobs(["litert"], device, "int8"))
    (made,) = load_bundle(out).artefacts
    assert (made.file.name, made.largest_batch, made.proof.computed_in) == ("model.int8.tflite", 3, "int8")
    how = made.quantisation
    assert how is not None and how.kept == () and how.drop <= how.max_drop
    assert (how.recipe, how.ranges, how.images, how.layers) == ("litert", "minmax", 21, 15)
    assert made.proof.agreement is not None and 0 < made.proof.agreement.difference < 0.1
    assert made.proof.latency is not None and made.proof.latency.times_fp32 is not None
    assert "takes exactly 3 images in a call" in (out / "README.md").read_text()
    (picture, *_) = sorted((tmp_path / "images" / "test" / "bee").iterdir())
    capsys.readouterr()
    assert predict([str(picture), "--top", "3"], out) == 0
    labels = json.loads((out / "manifest.json").read_text())["labels"]
    assert sorted(line.split("\t")[1] for line in capsys.readouterr().out.splitlines()) == sorted(labels)


def test_int8_that_cannot_keep_within_the_limit_is_refused(tmp_path: Path) -> None:
    wanting = exporter(tmp_path)
    # No loss is as small as a gain of a hundred points.
    wanting.target = wanting.target.__class__(DEVICE, None, wanting.target.protocol, max_drop=-100.0)
    with pytest.raises(CheckFailed, match=r"^int8 loses .* even with 7 of 15 layers in fp32, allowed -100; raise"):
        wanting.export(one_stage().named["t0"], tmp_path / "out", plan_jobs(["litert"], DEVICE, "int8"))
    assert not (tmp_path / "out").exists()
