"""LiteRT as a runtime, and what its files are held against before it opens them."""

import os
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.convert import quick_onnx
from nasdeploy.convert.litert import network_tflite
from nasdeploy.core.errors import UserError
from nasdeploy.nn.network import Network
from nasdeploy.runtimes import RUNTIMES, runtime_of
from nasdeploy.runtimes.device import Device, load_device
from nasdeploy.runtimes.litert import computes_half, integer_values
from nasdeploy.runtimes.runtime import Session
from nasdeploy.runtimes.tflite_file import DamagedFile, TfliteTensor, read_tflite
from tests.conformance.runtime_models import BIAS, WEIGHT, small
from tests.conformance.test_formats import DIGITS, network_of
from tests.sealed import GUARD

DEVICE = Device(name="here", runtime="litert")


def network() -> Network:
    return network_of(DIGITS, DIGITS.smallest())


@cache
def file() -> bytes:
    return network_tflite(network(), 1)


def opened(content: bytes, **settings: object) -> Session:
    device = DEVICE.model_copy(update=settings)
    return runtime_of(device).open(content, device)


def test_a_file_says_its_interface() -> None:
    found = read_tflite(file())
    assert [(each.name, each.dtype, each.shape) for each in found.inputs] == [("input", "float32", (1, 3, 8, 8))]
    assert [(each.name, each.dtype, each.shape) for each in found.outputs] == [("logits", "float32", (1, 10))]
    assert isinstance(found.inputs[0], TfliteTensor)


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_what_a_batch_lacks_is_filled_up(count: int) -> None:
    x = np.random.default_rng(count).standard_normal((count, 6)).astype(np.float32)
    model = small("tflite", 4)
    assert isinstance(model, bytes)
    logits, doubled = opened(model, batch=4).run({"input": x})
    np.testing.assert_allclose(logits, np.maximum(x @ WEIGHT + BIAS, 0), rtol=1e-5, atol=1e-6)
    assert doubled.shape == (count, 4)


@pytest.mark.parametrize("options", [{}, {"xnnpack": "true"}, {"xnnpack": "false"}])
def test_kernels_are_chosen_by_an_option(options: dict[str, str]) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    (found,) = opened(file(), options=options).run({"input": x})
    (expected,) = opened(file()).run({"input": x})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_options_are_checked() -> None:
    with pytest.raises(
        UserError, match=r"^device here: option 'xnnpak' is unknown to litert; did you mean 'xnnpack'\?"
    ):
        opened(file(), options={"xnnpak": "true"})
    with pytest.raises(UserError, match=r'^device here: option \'xnnpack\' is "no"; write "true" or "false"$'):
        opened(file(), options={"xnnpack": "no"})


def test_nothing_is_told_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    opened(file()).call()
    assert capfd.readouterr() == ("", "")


def test_shipped_devices_are_known() -> None:
    for name in ("cpu-litert", "pi5-litert"):
        assert load_device(name).runtime in RUNTIMES


@pytest.mark.parametrize(
    ("lines", "half"),
    [
        ("Features\t: fp asimd evtstrm crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp", True),
        ("Features\t: fp asimd evtstrm crc32 cpuid", False),
        ("flags\t\t: fpu avx2 f16c avx512_fp16", True),
        ("flags\t\t: fpu avx2 f16c", False),
    ],
)
def test_which_processors_compute_in_fp16(lines: str, half: bool, tmp_path: Path) -> None:
    """Those of the Raspberry Pi 5 and 4, and servers."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{lines}\n")
    assert computes_half(cpuinfo) == half


def test_integer_inputs_have_notes() -> None:
    assert integer_values({"values.input.0": b"7", "values.x": b"-1", "other": b"3"}) == {"input.0": 7}


# -- what it does besides

_ACTS = """
from pathlib import Path
import numpy as np
from nasdeploy.convert.tflite import to_tflite
from nasdeploy.convert.tflite_int8 import TfliteQuantiser
from nasdeploy.exporting.bundle.predict import _litert
from nasdeploy.runtimes.litert import LiteRt
from nasdeploy.runtimes.runtime import LocalTarget
GUARD
images, path = np.zeros((2, 3, 8, 8), np.float32), Path("model.tflite")
fp32 = to_tflite(Path("model.onnx").read_bytes(), names=("input", "logits"))
for content in (fp32, TfliteQuantiser(fp32, [{"input": images[:1]}]).quantised()):
    path.write_bytes(content)
    session = LiteRt().open(path, LocalTarget("here", "litert"))
    session.call()
    session.run({"input": images})
    session.close()
    assert _litert(path)(images).shape == (2, 10)
print("done")
"""


@pytest.mark.slow
def test_it_prints_nothing_opens_no_socket_and_starts_no_process(tmp_path: Path) -> None:
    """Converting, quantising, running, and a bundle's program: where the kernel would end the process if it tried."""
    types = [network().plan.only.inputs[0][1]]
    (tmp_path / "model.onnx").write_bytes(quick_onnx(network(), types, 1))
    command = [sys.executable, "-c", _ACTS.replace("GUARD", GUARD)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


# -- files of others


def test_whatever_is_cut_off_is_noticed() -> None:
    whole = file()
    for length in (0, 4, 7, 8, 100, len(whole) // 2, len(whole) - 1000):
        with pytest.raises(DamagedFile):
            read_tflite(whole[:length])


@given(st.binary(max_size=300))
def test_anything_is_refused_in_words(content: bytes) -> None:
    for each in (content, b"\x1c\0\0\0TFL3" + content):
        with pytest.raises(DamagedFile) as caught:
            read_tflite(each)
        assert "\n" not in str(caught.value)


@given(st.integers(0, 2**30), st.integers(0, 2**32 - 1))
def test_reading_a_damaged_file_raises_nothing_else(place: int, number: int) -> None:
    content = bytearray(file())
    at = place % (len(content) // 4) * 4
    content[at : at + 4] = number.to_bytes(4, "little")
    with suppress(DamagedFile):
        assert len(read_tflite(bytes(content)).inputs) < 10_000


def test_a_small_file_of_many_references_is_given_up() -> None:
    """A thousand graphs that are one, with a thousand tensors that are one: a million tables in a few kilobytes."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    builder = flatbuffers.Builder()
    schema.TensorStart(builder)
    tensor = schema.TensorEnd(builder)
    schema.SubGraphStartTensorsVector(builder, 1200)
    for _ in range(1200):
        builder.PrependUOffsetTRelative(tensor)
    tensors = builder.EndVector()
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    graph = schema.SubGraphEnd(builder)
    schema.ModelStartSubgraphsVector(builder, 1200)
    for _ in range(1200):
        builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, graphs)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    assert len(builder.Output()) < 20_000
    with pytest.raises(DamagedFile, match="refers to more than 100000 tables"):
        read_tflite(bytes(builder.Output()))


def test_damaged_files_do_not_end_the_process() -> None:
    """Dozens of files with a wrong number somewhere, each opened and called unless it is refused before."""
    rng, whole = np.random.default_rng(3), file()
    opened(whole).call()
    numbers = [0, 1, 7, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 8]
    process = os.fork()
    if process == 0:
        tried = sum(_opens(whole, int(rng.integers(len(whole) // 4)) * 4, int(rng.choice(numbers))) for _ in range(60))
        os._exit(0 if tried > 20 else 1)
    assert os.waitpid(process, 0)[1] == 0


def _opens(whole: bytes, at: int, number: int) -> bool:
    """Whether LiteRT was given the file with this number there."""
    content = whole[:at] + number.to_bytes(4, "little") + whole[at + 4 :]
    try:
        read_tflite(content)
    except DamagedFile:
        return False
    with suppress(UserError, ValueError, RuntimeError):
        opened(content).call()
    return True


def test_the_process_that_tries_a_file_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(file()[:-2000])
    command = [sys.executable, "-m", "nasdeploy.runtimes.litert", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("it refers to byte ")
    path.write_bytes(file())
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
