"""What of ONNX Runtime the conformance suite cannot ask: that it reports nothing to its maker."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nasdeploy.exporting.bundle import predict
from tests.conformance.runtime_models import relu_of

ALONE = "import onnxruntime; onnxruntime.InferenceSession(PATH, providers=['CPUExecutionProvider'])"
IN_NASDEPLOY = """
from pathlib import Path
from nasdeploy.runtimes.onnxruntime import OnnxRuntime
from nasdeploy.runtimes.runtime import LocalTarget
OnnxRuntime().open(Path(PATH), LocalTarget("here", "onnxruntime"))
"""
IN_A_BUNDLE = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(predict.__file__).parent)!r})
import predict
assert not [name for name in sys.modules if name.startswith("nasdeploy")]
predict._onnxruntime(Path(PATH))
"""


def kept_for_reports(code: str, folder: Path) -> list[str]:
    """What a program that opens a model leaves in an empty home: a name of the machine, reports that wait."""
    model, home = folder / "model.onnx", folder / "home"
    home.mkdir(parents=True)
    model.write_bytes(relu_of("onnx", 1, 3))
    left_out = ("ORT_DISABLE_TELEMETRY", "CI", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in left_out} | {"HOME": str(home)}
    command = [sys.executable, "-c", f"PATH = {str(model)!r}\n{code}"]
    subprocess.run(command, env=environment, check=True)
    return sorted(path.name for path in home.rglob("*") if path.is_file())


@pytest.mark.parametrize("code", [IN_NASDEPLOY, IN_A_BUNDLE], ids=["nasdeploy", "bundle"])
def test_it_reports_nothing(tmp_path: Path, code: str) -> None:
    if not kept_for_reports(ALONE, tmp_path / "alone"):
        pytest.skip("this version reports nothing by itself")
    assert kept_for_reports(code, tmp_path / "told") == []
