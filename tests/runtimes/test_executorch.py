"""ExecuTorch as a runtime, on programs: the conformance suite asks runtimes that open ONNX files or modules."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from nasdeploy.convert import model_for
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import TensorType
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.nn.network import Network
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.executorch import check_program
from nasdeploy.runtimes.runtime import TorchModel
from nasdeploy.workflows.compared_network import untrained_network
from nasdeploy.workflows.models import bench
from nasdeploy.workflows.runtimes import compare
from tests.conformance.test_formats import DIGITS, contents, network_of
from tests.exporting.models import interface
from tests.wording import assert_stops
from tests.workflows.test_bench import HASTY

FORM = FORMATS["executorch"]
DEVICE = Device(name="here", runtime="executorch")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FORM.missing() is not None, reason="ExecuTorch is not installed"),
]
WITH_TWO = DEVICE.model_copy(update={"threads": 2})


def network() -> Network:
    return network_of(DIGITS, DIGITS.smallest())


@cache
def program() -> bytes:
    (content,) = contents(FORM, network(), "fp32").values()
    return content


@pytest.fixture
def opened():
    """Opens the program, and closes it after the test: all that are open share their threads."""
    sessions = []

    def opens(device=DEVICE, content=None):
        sessions.append(runtime_of(device).open(content or program(), device))
        return sessions[-1]

    yield opens
    for session in sessions:
        session.close()


def images(batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("batch", [1, 15, 16, 32, 33, 70])
def test_any_batch_is_as_pytorchs(batch, opened):
    """Also more than memory was planned for; and 16, where PyTorch changes the way that it convolves."""
    x = images(batch)
    (found,) = opened().run({"input": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, network()(x).numpy(), atol=1e-5)


def test_results_are_the_callers_and_timed_calls_leave_them_alone(opened):
    session = opened()
    x = {"input": images(2).numpy()}
    (first,) = session.run(x)
    kept = first.copy()
    session.call()
    session.run({"input": -x["input"]})
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(session.run(x)[0], kept)


def test_inputs_have_the_devices_batch(opened):
    assert dict(opened(DEVICE.model_copy(update={"batch": 5})).inputs) == {"input": (5, 3, 8, 8)}


def test_a_device_of_larger_batches_needs_a_file_of_its_own(opened):
    message = (
        "^the model: takes at most 32 images in a call, and device here gives 64; export it again for that device$"
    )
    with pytest.raises(UserError, match=message):
        opened(DEVICE.model_copy(update={"batch": 64}))


def test_threads_are_the_devices(opened):
    from executorch.extension.pybindings import _C

    opened().close()
    assert _C._threadpool_get_thread_count() == 1
    opened(WITH_TWO)
    assert _C._threadpool_get_thread_count() == 2


def test_threads_are_not_taken_away_from_what_is_open(opened):
    """ExecuTorch would end the process at the next call of the first."""
    session = opened()
    message = "device here: ExecuTorch has one number of threads a process, and a model is open on 1; run this one by"
    with pytest.raises(UserError, match=message):
        opened(WITH_TWO)
    session.call()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it does not begin as a program does"),
        (b"junk" * 100, "it does not begin as a program does"),
        (lambda whole: whole[:-1], r"it has \d+ bytes, and its header says \d+"),
        (lambda whole: whole + b"more", r"it has \d+ bytes, and its header says \d+"),
        (lambda whole: whole[:40] + bytes(2000) + whole[2040:], "Failed to load program, error: .*"),
    ],
    ids=["empty", "junk", "cut", "longer", "zeros"],
)
def test_damaged_files_are_user_errors(content, reason, tmp_path, opened, capfd):
    file = tmp_path / "model.pte"
    file.write_bytes(content(program()) if callable(content) else content)
    with pytest.raises(UserError, match=rf"model\.pte: ExecuTorch cannot load it \({reason}\); export it again$"):
        runtime_of(DEVICE).open(file, DEVICE)
    assert capfd.readouterr().err == ""


def test_what_ends_the_process_that_runs_it_is_found_by_another(tmp_path, monkeypatch):
    file = tmp_path / "model.pte"
    file.write_bytes(program())
    ends = subprocess.CompletedProcess([], -11, stdout="", stderr="")
    monkeypatch.setattr("nasdeploy.exporting.formats.torch.subprocess.run", lambda *a, **k: ends)
    found = FORM.inspect(file, *interface(network().plan))
    assert found == ["ExecuTorch: the process that ran it ended by signal 11"]


def test_a_damaged_part_of_xnnpacks_is_found(tmp_path):
    file = tmp_path / "model.pte"
    content = bytearray(program())
    # XNNPACK's own part, which ExecuTorch does not check.
    start = content.index(b"XH00") + 26
    content[start : start + 400] = bytes(range(100, 200)) * 4
    file.write_bytes(content)
    (problem,) = FORM.inspect(file, *interface(network().plan))
    assert problem.startswith(f"{file}: ExecuTorch cannot load it (")


def test_header_of_a_program():
    check_program(program())
    with pytest.raises(ValueError, match="does not begin"):
        check_program(program()[:4] + b"VT12" + program()[8:])


def test_modules_are_refused_with_the_way_out():
    with assert_stops(
        UserError, match=r"ExecuTorch opens \.pte files, not modules; write one with 'nasdeploy export --format"
    ):
        runtime_of(DEVICE).open(TorchModel(network(), {"input": TensorType((3, 8, 8))}), DEVICE)
    with pytest.raises(UserError, match="device here: executorch runs files that were exported for it"):
        model_for(network(), [TensorType((3, 8, 8))], DEVICE)


def test_options_are_refused():
    with pytest.raises(UserError, match="device here: option 'fast' is unknown to executorch"):
        runtime_of(DEVICE).open(program(), DEVICE.model_copy(update={"options": {"fast": "1"}}))


def test_files_are_measured(tmp_path: Path):
    file = tmp_path / "model.pte"
    file.write_bytes(program())
    (result,) = bench([str(file)], DEVICE, Progress(quiet=True), protocol=HASTY)
    assert result.median_ms > 0


def test_opening_imports_no_exporter(tmp_path):
    """It takes four times as long to be there."""
    file = tmp_path / "model.pte"
    file.write_bytes(program())
    code = (
        "import sys; from pathlib import Path; from nasdeploy.runtimes.executorch import ExecuTorch; "
        "from nasdeploy.runtimes.runtime import LocalTarget; "
        f"ExecuTorch().open(Path({str(file)!r}), LocalTarget('here', 'executorch')).call(); "
        "assert 'executorch.exir' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_is_compared_by_an_export(monkeypatch):
    written, content = [], program()

    def write(self, source, path):
        written.append(source.device)
        path.write_bytes(content)

    monkeypatch.setattr(type(FORM), "write", write)
    compared = untrained_network(network(), (images(4).numpy(),), "digits")
    (found,) = compare(compared, [DEVICE], Progress(quiet=True), HASTY).results
    assert (found.reason, found.problem, written) == (None, None, [DEVICE])
    assert found.megabytes == len(program()) / 1e6
    assert 0 < found.difference < 1e-4
