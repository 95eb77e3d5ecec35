"""Exports in formats whose runtimes get a test process of their own."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from nasdeploy.core.progress import Progress
from nasdeploy.exporting.bundle.write import load_bundle
from nasdeploy.exporting.formats import FORMATS, PRECISIONS, plan_jobs
from nasdeploy.exporting.formats.format import file_name, files_of
from nasdeploy.runtimes import RUNTIMES
from nasdeploy.runtimes.engine import read_header
from nasdeploy.runtimes.runtime import Precision
from nasdeploy.workflows.verify import verify
from tests.exporting.models import DEVICE, QUICK, exporter
from tests.small_spaces import one_stage

OF_PHONES = [name for name, form in FORMATS.items() if RUNTIMES[form.runtime(DEVICE)].form in ("ncnn", "mnn", "tflite")]
"""Formats of runtimes that open a form of their own, which can be made and measured anywhere."""
PAIRS = [(name, precision) for name in OF_PHONES for precision in PRECISIONS if precision in FORMATS[name].precisions]


@pytest.fixture(scope="module")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Precision], Path]:
    """The bundle, in a precision, of all formats of phones that can be made here; each is made once."""
    made = exporter(tmp_path_factory.mktemp("phones"))

    @cache
    def exported(precision: Precision) -> Path:
        names = [name for name in OF_PHONES if (name, precision) in PAIRS and not FORMATS[name].missing()]
        out = tmp_path_factory.mktemp("phones") / precision
        made.export(one_stage().named["t0"], out, plan_jobs(names, DEVICE, precision))
        return out

    return exported


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision"), PAIRS)
def test_a_phones_format_is_delivered_with_its_proof(
    name: str, precision: Precision, bundle_of: Callable[[Precision], Path]
) -> None:
    form = FORMATS[name]
    if form.missing():
        pytest.skip(f"{name}: run {form.missing()}")
    bundle = bundle_of(precision)
    (made,) = (each for each in load_bundle(bundle).artefacts if each.format == name)
    runtime, proof = RUNTIMES[made.device.runtime], made.proof
    assert [file.name for file in made.files] == [
        path.name for path in files_of(form, bundle / file_name(form, precision))
    ]
    assert [file.bytes for file in made.files] == [(bundle / file.name).stat().st_size for file in made.files]
    assert (made.precision, made.device.precision, made.not_run) == (precision, precision, None)
    assert made.largest_batch == form.largest_batch(DEVICE)
    # A machine may compute in fp32 what is stored in fp16; then the bundle says so.
    assert proof.problems == () and proof.computed_in == runtime.computes(precision)
    told = f"| `{made.file.name}` | computed in | {proof.computed_in}"
    assert told + (" by the machine" if proof.computed_in != precision else " |") in (bundle / "README.md").read_text()
    assert proof.agreement is not None and proof.agreement.difference >= 0
    allowed = proof.agreement.tolerance.allowed
    assert (allowed is None) == (precision == "int8") and (allowed is None or proof.agreement.difference <= allowed)
    assert proof.accuracy is not None and proof.accuracy.images == 75
    assert proof.latency is not None and proof.latency.median_ms > 0
    assert (proof.latency.times_fp32 is None) == (precision == "fp32")
    assert (proof.half is None) == (precision != "fp16") and (made.quantisation is None) == (precision != "int8")
    assert made.fingerprint is not None and runtime.version() in made.fingerprint.runtime


@pytest.mark.slow
@pytest.mark.parametrize("precision", sorted({precision for _, precision in PAIRS}))
def test_their_bundle_computes_again_what_it_computed(
    precision: Precision, bundle_of: Callable[[Precision], Path]
) -> None:
    if all(FORMATS[name].missing() for name, each in PAIRS if each == precision):
        pytest.skip("none of their converters is installed")
    found = verify(bundle_of(precision), Progress(quiet=True), protocol=QUICK)
    assert found.problems == ()
    made = load_bundle(bundle_of(precision)).artefacts
    assert [each.model for each in found.found] == [each.file.name for each in made]


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
