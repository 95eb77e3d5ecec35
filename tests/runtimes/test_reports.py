"""Runtimes that report their use to their makers do not where nasdeploy, or a bundle's program, opens models with them.

Reports wait until a process is some seconds old; what is kept for them is there at once.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nasdeploy.exporting.bundle import predict
from nasdeploy.runtimes import RUNTIMES
from tests.conformance.runtime_models import relu_of

ALONE = "import {name}"
IN_NASDEPLOY = """
from pathlib import Path
from nasdeploy.runtimes import RUNTIMES
from nasdeploy.runtimes.runtime import LocalTarget
RUNTIMES["{name}"].open(Path("model.onnx"), LocalTarget("here", "{name}")).call()
"""
IN_A_BUNDLE = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(predict.__file__).parent)!r})
import predict
assert not [name for name in sys.modules if name.startswith("nasdeploy")]
predict._{{name}}(Path("model.onnx"))
"""
NOT_TOLD = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "CI", "TF_BUILD", "JENKINS_URL")


def kept_for_reports(code: str, home: Path) -> list[str]:
    """What a program leaves in an empty home: the name by which reports call the machine, counts, reports that wait."""
    home.mkdir()
    (home / "model.onnx").write_bytes(relu_of("onnx", 1, 3))
    environment = {name: value for name, value in os.environ.items() if name not in NOT_TOLD} | {"HOME": str(home)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=home)
    return sorted(path.name for path in home.rglob("*") if path.is_file() and path.name != "model.onnx")


@pytest.mark.parametrize("code", [IN_NASDEPLOY, IN_A_BUNDLE], ids=["nasdeploy", "bundle"])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_nothing_is_reported(tmp_path: Path, name: str, code: str) -> None:
    if RUNTIMES[name].missing():
        pytest.skip(f"{name} is not installed")
    if not kept_for_reports(ALONE.format(name=name), tmp_path / "alone"):
        pytest.skip("this version reports nothing by itself")
    assert kept_for_reports(code.format(name=name), tmp_path / "told") == []
