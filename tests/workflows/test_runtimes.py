"""One network in several runtimes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len

import nasdeploy as nd
from nasdeploy.cli import runtimes as command
from nasdeploy.core.errors import CheckFailed, ConversionRefused, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.resources import resource_names
from nasdeploy.exporting.bundle.write import load_bundle
from nasdeploy.exporting.record import TOLERANCE
from nasdeploy.runtimes import RUNTIMES
from nasdeploy.runtimes.device import load_device
from nasdeploy.workflows.compared_network import (
    ComparedNetwork,
    bundled_network,
    compared_network,
    found_in,
    network_of,
)
from nasdeploy.workflows.runtimes import chosen_devices, compare
from tests.exporting.models import exporter, jobs
from tests.hasty import measure_hastily
from tests.small_spaces import one_stage
from tests.wording import assert_stops

SPACE = one_stage()
SMALLEST = SPACE.smallest()
QUIET = Progress(quiet=True)
KEYS = {
    *("device", "runtime", "version", "precision", "threads", "hosts", "reason", "megabytes", "median_ms", "p10_ms"),
    *("p90_ms", "p95_ms", "processes_ms", "noise", "ties", "difference", "allowed", "problem"),
}


@pytest.fixture(autouse=True)
def _measured_in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_hastily(monkeypatch)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle")
    exporter(root).export(SMALLEST, root / "out", jobs("onnx", "openvino", "torch"))
    return root / "out"


def test_an_architecture_is_measured_and_agrees_with_pytorch() -> None:
    found = nd.compare_runtimes("smallest", ["cpu", "cpu-torch", "cpu-int8"], space=SPACE)
    plan = SPACE.plan(SMALLEST)
    assert (found.macs, found.params, found.batch) == (plan.macs, plan.params, 1)
    assert found.network == f"{SMALLEST.digest} of space {SPACE.name}"
    assert {each.device for each in found.measured} == {"cpu", "cpu-torch", "cpu-int8"}
    medians = [each.median_ms for each in found.results]
    assert medians == sorted(medians)  # type: ignore[type-var]
    by_name = {each.device: each for each in found.results}
    # Weights in fp32, and little else; statistics of normalisation are PyTorch's only.
    for name in ("cpu", "cpu-torch"):
        assert 4 * plan.params < 1e6 * by_name[name].megabytes < 6 * plan.params + 20_000
        assert by_name[name].difference is not None and by_name[name].difference < TOLERANCE
    assert by_name["cpu-torch"].difference < 1e-6  # type: ignore[operator]
    # Ranges of random inputs say nothing of a trained network's outputs.
    assert by_name["cpu-int8"].difference is None
    found.require_agreement()


@pytest.mark.slow
def test_a_bundle_is_measured_by_its_files_and_compared_on_its_sample(bundle: Path) -> None:
    found = nd.compare_runtimes(bundle, ["cpu", "cpu-torch", "cpu-int8"])
    *measured, refused = found.results
    assert {each.device for each in measured} == {"cpu", "cpu-torch"}
    files = {"cpu": "model.onnx", "cpu-torch": "model.pt2"}
    for each in measured:
        assert each.megabytes == pytest.approx((bundle / files[each.device]).stat().st_size / 1e6)
        assert each.difference is not None and each.difference < TOLERANCE
    assert (refused.device, refused.median_ms) == ("cpu-int8", None)
    with assert_stops(
        UserError, match=r"in int8 that onnxruntime opens; export one with 'nasdeploy export --format onn"
    ):
        raise UserError(refused.reason)


@pytest.mark.slow
def test_files_that_are_several_are_opened_in_this_process_and_sent_to_no_board(bundle: Path, tmp_path: Path) -> None:
    found = bundled_network(bundle)
    (xml,) = (artefact for artefact in load_bundle(bundle).artefacts if artefact.format == "openvino")
    device = load_device("cpu-openvino")
    in_two = replace(found, make=lambda device: found_in(bundle, [xml], device))
    (result,) = compare(in_two, [device], Progress(quiet=True)).results
    assert in_two.make(device).model == bundle / "model.xml"
    assert result.difference is not None and result.difference < TOLERANCE
    assert result.megabytes == sum((bundle / f"model.{end}").stat().st_size for end in ("xml", "bin")) / 1e6
    (tmp_path / "board.yaml").write_text("name: board\nruntime: openvino\nhost: ssh://me@nowhere\n")
    (result,) = compare(in_two, [load_device(tmp_path / "board.yaml")], Progress(quiet=True)).results
    assert result.reason == "the model is in several files, and a board is sent one; export it in another format too"


def test_outputs_of_random_weights_depend_on_the_inputs() -> None:
    """A runtime that computed the same for all inputs would be found out."""
    (outputs,) = network_of(SPACE.largest(), SPACE).outputs
    assert outputs.shape == (4, 3)
    assert np.abs(outputs - outputs[::-1]).max(axis=1).min() > 100 * TOLERANCE * np.abs(outputs).max()


def test_any_batch_of_a_device_is_compared(tmp_path: Path) -> None:
    """Also one that is no divisor of the number of samples."""
    (tmp_path / "three.yaml").write_text("name: three\nruntime: onnxruntime\nbatch: 3\n")
    (found,) = nd.compare_runtimes(SMALLEST, [str(tmp_path / "three.yaml")], space=SPACE).results
    assert found.difference is not None and 0 < found.difference < TOLERANCE


def changed(**fields: object) -> Callable[..., ComparedNetwork]:
    return lambda *asked: replace(compared_network(*asked), **fields)  # type: ignore[arg-type]


def test_other_outputs_than_pytorchs_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = (np.full((4, 3), 5.0, np.float32),)
    monkeypatch.setattr("nasdeploy.workflows.compared_network.compared_network", changed(outputs=outputs))
    found = nd.compare_runtimes(SMALLEST, ["cpu"], space=SPACE)
    (result,) = found.results
    assert result.difference is not None and result.difference > 0.1
    with pytest.raises(CheckFailed, match=r"^device cpu: its outputs differ from PyTorch's by .*, allowed 0.0001; use"):
        found.require_agreement()
    outputs = (np.zeros((4, 5), np.float32),)
    monkeypatch.setattr("nasdeploy.workflows.compared_network.compared_network", changed(outputs=outputs))
    (result,) = nd.compare_runtimes(SMALLEST, ["cpu"], space=SPACE).results
    assert result.problem == "output of shape [4, 3], expected [4, 5]"


def test_what_is_refused_or_lacking_is_a_row_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(device):
        raise ConversionRefused("operator Frobnicate of block head is unknown to it")

    monkeypatch.setattr(RUNTIMES["openvino"], "missing", lambda: "pip install openvino")
    monkeypatch.setattr("nasdeploy.workflows.compared_network.compared_network", changed(make=refuses))
    found = nd.compare_runtimes(SMALLEST, ["cpu", "cpu-openvino", "tensorrt-fp16"], space=SPACE)
    reasons = {each.device: each.reason for each in found.results}
    assert reasons["cpu"] == "operator Frobnicate of block head is unknown to it"
    assert reasons["cpu-openvino"] == "openvino is not installed; run: pip install openvino"
    assert reasons["tensorrt-fp16"] is not None
    with pytest.raises(UserError, match=r"^nothing was measured: device cpu: operator .* \(and 2 more devices\)$"):
        found.require_agreement()


def test_all_that_can_be_used_here_are_compared_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RUNTIMES["openvino"], "missing", lambda: "pip install openvino")
    names = [device.name for device in chosen_devices(())]
    shipped = map(load_device, resource_names("profiles"))
    here = {one.name for one in shipped if one.is_local and not RUNTIMES[one.runtime].missing()}
    assert {"cpu", "cpu-int8", "cpu-torch"} <= set(names) <= here
    assert "cpu-openvino" not in names


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ("a9", {}, "network a9: not found; give a JSON file"),
        ("smallest", {"devices": ["cpu", "cpu"]}, "device cpu is named twice; name each once"),
        ("smallest", {"devices": ["cpux"]}, "unknown device 'cpux'; did you mean 'cpu'"),
        (
            "smallest",
            {"devices": ["cpu", "two.yaml"]},
            "batch of device two is 2, of cpu 1, so that their latencies do",
        ),
        ("smallest", {"plot": "x.pdf"}, "--plot x.pdf: the picture is a PNG; give a name that ends in .png"),
        (".", {"space": None}, ".: no exported model there"),
        (".", {}, ".: a bundle has its own network; leave --space and --run out"),
    ],
)
def test_mistakes_end_in_one_line(network, options, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.yaml").write_text("name: two\nruntime: onnxruntime\nbatch: 2\n")
    with assert_stops(UserError, match=f"^{message.replace('.', '[.]').replace('(', '[(]')}") as caught:
        nd.compare_runtimes(network, **{"space": SPACE, "devices": ["cpu"], **options})
    assert "\n" not in str(caught.value)
    assert not Path("x.pdf").exists()


def test_the_command_prints_a_table_of_80_columns_or_json_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = tmp_path / "long.yaml"
    device.write_text("name: a-device-with-a-name-that-is-too-long-for-a-column\nruntime: onnxruntime\n")
    arguments = {"device": [f"cpu,{device}", "jetson-orin-fp16"], "space": "digits", "quiet": True}
    command.compare("smallest", plot=tmp_path / "bars.png", **arguments)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("network ")
    heading = next(line for line in lines if line.startswith("device "))
    assert heading.split() == ["device", "runtime", "MB", "median", "p10", "p90", "times", "difference"]
    table = lines[
        lines.index(heading) : next(n for n, line in enumerate(lines) if line.startswith("jetson-orin-fp16: "))
    ]
    assert max(map(cell_len, table)) <= 80
    assert len(table) > 4
    with Image.open(tmp_path / "bars.png") as picture:
        assert picture.format == "PNG"
    command.compare("smallest", as_json=True, **arguments)
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"network", "macs", "params", "batch", "results"}
    for row in found["results"]:
        assert set(row) == KEYS
    assert [row["reason"] is None for row in found["results"]] == [True, True, False]


def test_the_number_of_classes_belongs_to_a_space() -> None:
    with pytest.raises(UserError, match=r"^--classes belongs to --space"):
        command.compare("smallest", classes=3)
