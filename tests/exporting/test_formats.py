"""What is asked of an export, and refused before any work."""

from typing import Any

import pytest

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.exporting.formats import FORMATS, plan_jobs
from nasdeploy.runtimes.device import Device, load_device

CPU = load_device("cpu")
NEEDS_RTX = pytest.mark.skipif(FORMATS["tensorrt-rtx"].missing() is not None, reason="TensorRT for RTX is missing")


def test_formats_are_given_one_by_one_or_in_lists_and_count_once() -> None:
    jobs = plan_jobs(["onnx, torch", "onnx"], CPU)
    assert [(job.name, job.precision, job.not_run) for job in jobs] == [("onnx", "fp32", None), ("torch", "fp32", None)]
    assert [job.device.name for job in jobs] == ["cpu", "cpu-torch"]


def test_the_precision_is_the_devices_unless_another_is_given() -> None:
    device = load_device("cpu-int8")
    (job,) = plan_jobs(["onnx"], device)
    assert (job.precision, job.device) == ("int8", device)
    (job,) = plan_jobs(["onnx"], device, "fp16")
    assert (job.precision, job.device.precision) == ("fp16", "fp16")


def test_options_of_a_runtime_are_not_given_to_another() -> None:
    device = Device(name="x", runtime="torch", threads=2, options={"compile": "true"})
    (job,) = plan_jobs(["onnx"], device)
    assert (job.device.runtime, job.device.threads, job.device.options) == ("onnxruntime", 2, {})


@NEEDS_RTX
def test_capabilities_are_read_as_people_write_them() -> None:
    (job,) = plan_jobs(["tensorrt-rtx"], CPU, capabilities=["sm86,8.9", "SM86"])
    assert job.capabilities == ("SM86", "SM89")


def test_a_package_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasdeploy.exporting.formats.format.find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        plan_jobs(["onnx", "openvino"], CPU)
    assert typed(caught.value) == "format openvino: its package is missing or too old; run: pip install openvino"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"formats": ["onxx"]}, "unknown format 'onxx'; did you mean 'onnx'?"),
        ({"formats": [","]}, "no format given; known: onnx, openvino"),
        ({"precision": "int4"}, "unknown precision 'int4'; did you mean 'int8'?"),
        (
            {"formats": ["torch"], "precision": "fp16"},
            "format torch does not hold fp16; use --precision fp32, or another format",
        ),
        (
            {"capabilities": ["sm86"]},
            "--compute-capability is for format tensorrt-rtx; leave it out, or ask for that format too",
        ),
        (
            {"formats": ["tensorrt-rtx"], "capabilities": ["sm87"]},
            "--compute-capability sm87: unknown to this version of TensorRT for RTX; did you mean 'sm8",
        ),
        (
            {"device": Device(name="pi", runtime="onnxruntime", host="ssh://a@b")},
            "device pi: its networks run on another",
        ),
        (
            {"device": Device(name="pi", runtime="onnxruntime", host="ssh://a@b"), "formats": ["torch"]},
            "device pi: its networks run on another",
        ),
    ],
)
@NEEDS_RTX
def test_mistakes_are_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        plan_jobs(**{"formats": ["onnx"], "device": CPU, **given})
    assert typed(caught.value).startswith(message)
    assert "\n" not in typed(caught.value)


@NEEDS_RTX
def test_without_a_gpu_the_gpus_have_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasdeploy.exporting.formats.tensorrt.missing_gpu", lambda: "there is no NVIDIA driver")
    with pytest.raises(UserError) as caught:
        plan_jobs(["tensorrt-rtx"], CPU)
    assert typed(caught.value) == (
        "format tensorrt-rtx: there is no NVIDIA driver; or build for other GPUs: --compute-capability, e.g. sm86,sm89"
    )
