"""What every runtime must do, on small graphs whose results NumPy gives."""

import os
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.runtimes import RUNTIMES, runtime_of
from nasdeploy.runtimes.device import Device
from tests.conformance.runtime_models import (
    BIAS,
    FILES,
    WEIGHT,
    matmul_chain,
    relu_of,
    small,
    small_bytes,
    small_onnx,
    unknown_operator,
    wide,
    written,
)


def devices(*forms):
    names = [name for name in sorted(RUNTIMES) if RUNTIMES[name].form in forms]
    return [pytest.param(name, marks=pytest.mark.gpu) if RUNTIMES[name].needs_gpu else name for name in names]


def usable(name):
    runtime = RUNTIMES[name]
    absent = runtime.missing() or runtime.obstacle()
    if absent:
        pytest.skip(f"{name}: {absent}")
    return Device(name="here", runtime=name)


# Those of programs are in tests/runtimes/: a program of each of these graphs would take half a minute to convert.
@pytest.fixture(params=devices(*FILES, "module"))
def device(request):
    return usable(request.param)


@pytest.fixture(params=devices("onnx"))
def onnx_device(request):
    return usable(request.param)


@pytest.fixture(params=devices(*FILES))
def file_device(request):
    return usable(request.param)


def form_of(device):
    return RUNTIMES[device.runtime].form


def opened(device, model=None):
    runtime = runtime_of(device)
    return runtime.open(small(runtime.form) if model is None else model(runtime.form), device)


def images(batch):
    return np.random.default_rng(1).standard_normal((batch, 6)).astype(np.float32)


@pytest.mark.parametrize("batches", [(1,), (5,), (0, 1, 2, 3, 32, 33, 1), (33, 0, 1), (1, 0, 0, 2)])
def test_result_is_numpys_for_any_batch_after_any(device, batches):
    session = opened(device)
    for batch in batches:
        x = images(batch)
        if batch == 0:
            with pytest.raises(UserError, match=r"^input input: an empty batch, of shape \[0, 6\]; give 1 "):
                session.run({"input": x})
            continue
        logits, doubled = session.run({"input": x})
        expected = np.maximum(x @ WEIGHT + BIAS, 0)
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(doubled, 2 * expected, rtol=1e-5, atol=1e-6)


def test_results_are_the_callers(device):
    session = opened(device)
    first = session.run({"input": images(2)})
    before = [output.copy() for output in first]
    session.run({"input": -images(2)})
    for output, copy in zip(first, before, strict=True):
        np.testing.assert_array_equal(output, copy)


def test_model_can_be_a_file(file_device, tmp_path):
    form = form_of(file_device)
    file = written(form, small_bytes(form), tmp_path)
    from_file = runtime_of(file_device).open(file, file_device).run({"input": images(2)})
    np.testing.assert_array_equal(from_file[0], opened(file_device).run({"input": images(2)})[0])


def test_dynamic_batch_is_the_devices(device):
    assert dict(opened(device).inputs) == {"input": (1, 6)}
    four, largest = device.model_copy(update={"batch": 4}), RUNTIMES[device.runtime].largest_batch
    if largest is None:
        assert dict(opened(four, lambda form: small(form, 4)).inputs) == {"input": (4, 6)}
        return
    said = rf"^device here: {device.runtime} takes at most {largest} image\(s\) .* batch is 4; write batch: {largest}$"
    with pytest.raises(UserError, match=said):
        opened(four)


def test_a_file_of_another_batch_than_the_devices_is_refused():
    device = usable("litert").model_copy(update={"batch": 4})
    said = "^the model: takes 1 image in a call, and device here gives 4; export it again for that device$"
    with pytest.raises(UserError, match=said):
        opened(device)


def test_fixed_batch_is_the_models(onnx_device):
    assert dict(runtime_of(onnx_device).open(small_onnx(3), onnx_device).inputs) == {"input": (3, 6)}


def test_timed_calls_leave_results_alone(device):
    session = opened(device)
    before = session.run({"input": images(1)})
    for _ in range(3):
        session.call()
    np.testing.assert_array_equal(session.run({"input": images(1)})[0], before[0])
    session.call()
    session.close()


def test_a_call_hands_over_nothing(device):
    """NumPy's arrays are seen by tracemalloc: of 3 MB in and 3 MB out nothing may pass by Python."""
    session = opened(device, lambda form: relu_of(form, 1, 3, 512, 512))
    session.call()
    tracemalloc.start()
    try:
        session.call()
        assert tracemalloc.get_traced_memory()[1] < 100_000
        session.run({name: np.zeros(shape, dtype=np.float32) for name, shape in session.inputs.items()})
        assert tracemalloc.get_traced_memory()[1] > 3_000_000, "the check would notice"
    finally:
        tracemalloc.stop()


def test_a_closed_session_gives_its_memory_back(device):
    """Twenty models of 16 MB of weights, one after the other, take as much room as a few."""
    before = 0
    for number in range(20):
        session = opened(device, wide)
        session.call()
        session.close()
        if number == 2:
            before = _resident()
    assert _resident() - before < 130e6


def _resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_threads_do_not_change_the_result(device):
    one = opened(device).run({"input": images(3)})
    two = opened(device.model_copy(update={"threads": 2})).run({"input": images(3)})
    np.testing.assert_allclose(two[0], one[0], rtol=1e-6)


def test_one_thread_is_one_thread(device):
    session = opened(device, lambda form: matmul_chain(form, 256, 4))
    session.call()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(10):
        session.call()
    assert time.process_time() - cpu < 1.2 * (time.perf_counter() - wall) + 0.02
    session.close()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor only")
def test_two_threads_are_two_threads(device):
    if RUNTIMES[device.runtime].needs_gpu:
        pytest.skip("threads are the processor's")
    # Where others use both cores, a thread waits for its slice of 3 ms, and the other one does its share meanwhile: so
    # that a share takes longer than that, the products are large. It has a hundred rounds to appear.
    session = opened(device.model_copy(update={"threads": 2}), lambda form: matmul_chain(form, 1024, 2))
    session.call()
    before = _thread_seconds()
    assert any(_shared_by_two(session, before) for _ in range(100))
    session.close()


def _shared_by_two(session, before):
    """Whether the second busiest thread did a tenth of what the busiest did since `before`, after five more calls."""
    for _ in range(5):
        session.call()
    seconds = sorted(after - before.get(thread, 0.0) for thread, after in _thread_seconds().items())
    return seconds[-2] > 0.1 * seconds[-1] > 0


def _thread_seconds():
    """Return the processor time of each thread of this process so far, by its number."""
    clock = os.sysconf("SC_CLK_TCK")
    found = {}
    for stat in Path("/proc/self/task").glob("*/stat"):
        fields = stat.read_text().rpartition(")")[2].split()
        found[stat.parent.name] = (int(fields[11]) + int(fields[12])) / clock
    return found


@pytest.mark.parametrize("damaged", ["empty", "text", "cut"])
def test_damaged_model_is_a_user_error(file_device, tmp_path, damaged):
    form = form_of(file_device)
    content = {"empty": b"", "text": b"no model", "cut": small_bytes(form)[:100]}[damaged]
    file = written(form, content, tmp_path)
    with pytest.raises(UserError, match=r"model\.\w+: .* cannot load it \(.+\); export it again$") as caught:
        runtime_of(file_device).open(file, file_device)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"^the model: .* cannot load it \(.+\); export it again$"):
        runtime_of(file_device).open(content, file_device)


def test_missing_file_is_a_user_error(file_device, tmp_path):
    with pytest.raises(UserError, match=r"absent\.onnx"):
        runtime_of(file_device).open(tmp_path / "absent.onnx", file_device)


def test_an_operator_that_the_runtime_lacks_is_named(file_device):
    with pytest.raises(UserError, match="Unheard") as caught:
        runtime_of(file_device).open(unknown_operator(form_of(file_device)), file_device)
    assert "\n" not in str(caught.value)


def test_version_is_a_version(device):
    assert runtime_of(device).version()[0].isdigit()


def test_it_says_what_it_computes_in(device):
    """On processors of the x86 family in fp32, mostly, whatever the file is in."""
    runtime = runtime_of(device)
    assert runtime.computes("fp32") == "fp32"
    assert all(runtime.computes(precision) in ("fp32", precision) for precision in runtime.precisions)


def test_an_option_that_the_runtime_refuses_is_named(device):
    refusing = device.model_copy(update={"options": {"": "1"}})
    with pytest.raises(UserError, match=r"device here: option '' is (refused|unknown)"):
        opened(refusing)


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_what_is_missing_is_a_command(name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda *a: None)
    module = type(RUNTIMES[name]).__module__
    monkeypatch.setattr(f"{module}.find_spec", lambda *a: None)
    missing = RUNTIMES[name].missing()
    assert missing is not None
    assert "pip install " in missing
    with pytest.raises(UserError, match=f"device here: {name} is not installed; run: pip ") as caught:
        runtime_of(Device(name="here", runtime=name))
    assert missing in str(caught.value)
