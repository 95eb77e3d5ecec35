"""Exports in formats whose runtimes get a test process of their own."""

from pathlib import Path

import pytest

from nasdeploy.exporting.bundle.write import load_bundle
from nasdeploy.exporting.formats import FORMATS, plan_jobs
from nasdeploy.runtimes.engine import read_header
from tests.exporting.models import DEVICE, exporter
from tests.small_spaces import one_stage


def test_an_engine_for_other_gpus_is_built_and_said_not_to_have_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if FORMATS["tensorrt-rtx"].missing():
        pytest.skip("TensorRT for RTX is not installed")
    monkeypatch.setattr("nasdeploy.exporting.formats.tensorrt.missing_gpu", lambda: "no driver")
    jobs = plan_jobs(["tensorrt-rtx,openvino"], DEVICE, "fp16", ["sm86,sm89,sm120"])
    exporter(tmp_path).export(one_stage().named["t0"], tmp_path / "out", jobs)
    engine, openvino = load_bundle(tmp_path / "out").artefacts
    assert engine.not_run == "not run here: it is for SM86, SM89, SM120, and no NVIDIA GPU is here"
    assert (engine.fingerprint, engine.proof.latency, engine.proof.footprint) == (None, None, None)
    # What the ONNX model behind it computes was compared all the same.
    assert engine.proof.agreement is not None and engine.proof.agreement.tolerance.allowed == 0.01
    assert engine.proof.accuracy is not None and engine.proof.accuracy.images == 75
    header = read_header((tmp_path / "out" / engine.file.name).read_bytes())
    assert header.capabilities == engine.capabilities == ("SM86", "SM89", "SM120")
    assert [file.name for file in openvino.files] == ["model.fp16.xml", "model.fp16.bin"]
    assert openvino.not_run is None
    assert openvino.proof.latency is not None and openvino.proof.latency.times_fp32 is not None
    assert openvino.proof.footprint is not None
    # Neither runtime need compute in fp16 here; what that does to the network was found out all the same.
    for made in (engine, openvino):
        assert made.proof.computed_in in ("fp32", "fp16")
        assert made.proof.half is not None and made.proof.half.accuracy.difference <= 0.01
        assert 0.1 < made.proof.half.largest < 65504 and made.proof.half.kept == ()
