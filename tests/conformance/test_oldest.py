"""ONNX files in the oldest ONNX Runtime that bundles name, which has a place of its own beside this environment."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from nasdeploy.convert.precision import to_fp16
from nasdeploy.convert.quantise import RECIPES, Quantiser
from nasdeploy.exporting.formats import Extras
from nasdeploy.runtimes.onnxruntime import OLDEST_TRIED, OnnxRuntime
from nasdeploy.runtimes.runtime import Array, LocalTarget
from tests.exporting.models import exporter, jobs
from tests.small_spaces import one_stage

PLACE = Path(os.environ.get("NASDEPLOY_OLDEST_ONNXRUNTIME", Path(sys.prefix, "oldest")))
"""`make test` installs it there."""
RUN = """
import sys
import numpy as np, onnxruntime
model, inputs, outputs = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
(found,) = session.run(None, {session.get_inputs()[0].name: np.load(inputs)})
np.save(outputs, found)
print(onnxruntime.__version__)
"""
pytestmark = pytest.mark.skipif(not (PLACE / "onnxruntime").is_dir(), reason=f"no old ONNX Runtime in {PLACE}")


def there(*arguments: str) -> str:
    """What a Python with nothing but the old runtime, NumPy and Pillow prints."""
    environment = {**os.environ, "PYTHONPATH": str(PLACE)}
    command = [sys.executable, "-S", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("oldest")
    exporter(root).export(one_stage().named["t0"], root / "out", jobs(), Extras(embedded=True))
    return root / "out"


def images() -> Array:
    x: Array = np.random.default_rng(0).standard_normal((4, 3, 12, 12)).astype(np.float32)
    return x


def assert_agrees(model: bytes, x: Array, folder: Path, allowed: float) -> None:
    (folder / "model.onnx").write_bytes(model)
    np.save(folder / "x.npy", x)
    printed = there("-c", RUN, str(folder / "model.onnx"), str(folder / "x.npy"), str(folder / "y.npy"))
    assert printed.strip() == OLDEST_TRIED
    session = OnnxRuntime().open(model, LocalTarget("here", "onnxruntime"))
    (expected,) = session.run({next(iter(session.inputs)): x})
    assert np.abs(np.load(folder / "y.npy") - expected).max() <= allowed * np.ptp(expected)


def test_the_deliverable_in_fp32(bundle: Path, tmp_path: Path) -> None:
    assert_agrees((bundle / "model.onnx").read_bytes(), images(), tmp_path, 1e-5)


def test_in_fp16_as_a_whole_and_in_part(bundle: Path, tmp_path: Path) -> None:
    model = (bundle / "model.onnx").read_bytes()
    names = [node.name for node in onnx.load_from_string(model).graph.node]
    for kept in ([], names[3:8]):
        assert_agrees(to_fp16(model, kept=kept), images(), tmp_path, 0.01)


@pytest.mark.parametrize("recipe", ["onnxruntime", "tensorrt", "tensorrt-rtx"])
def test_in_int8(recipe: str, bundle: Path, tmp_path: Path) -> None:
    model = (bundle / "model.onnx").read_bytes()
    quantised = Quantiser(model, RECIPES[recipe], [images()], reduce_range=True).quantised()
    assert_agrees(quantised, images(), tmp_path, 0.05)


def test_with_preprocessing_in_the_graph(bundle: Path, tmp_path: Path) -> None:
    pixels: Array = np.random.default_rng(0).integers(0, 256, (2, 17, 23, 3), dtype=np.uint8)
    assert_agrees((bundle / "model.embedded.onnx").read_bytes(), pixels, tmp_path, 0.02)


def test_predict_py_runs_there_and_the_bundle_says_so(bundle: Path) -> None:
    picture = next(iter((bundle.parent / "images" / "test").rglob("*.png")))
    printed = there(str(bundle / "predict.py"), str(picture))
    assert printed.split("\t")[1] in ("ant", "bee", "cat")
    assert f"tried with is ONNX Runtime {OLDEST_TRIED}" in (bundle / "README.md").read_text(encoding="utf-8")
