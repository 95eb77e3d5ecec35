"""A board has Python, NumPy and a runtime, and gets the files of `nasdeploy.runtimes` that need no more."""

import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from nasdeploy.runtimes import RUNTIMES, runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import LocalTarget
from tests.layers import modules

WITH_PYDANTIC = "nasdeploy.runtimes.device"
BOARD = [name for name in modules() if name.startswith("nasdeploy.runtimes") and name != WITH_PYDANTIC]
ABSENT = ("pydantic", "yaml", "torch", "scipy", "rich", "typer", "onnx")


def on_a_board(code: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` where what a board lacks cannot be imported."""
    without = f"import sys\nfor name in {ABSENT}: sys.modules[name] = None\n"
    return subprocess.run([sys.executable, "-c", without + code], capture_output=True, text=True, check=False)


def test_every_runtimes_file_is_importable_on_a_board():
    assert "nasdeploy.runtimes.onnxruntime" in BOARD
    done = on_a_board(f"import {', '.join(BOARD)}")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_check_would_notice():
    assert "pydantic" in on_a_board(f"import {WITH_PYDANTIC}").stderr


@pytest.mark.parametrize("runtime", sorted(RUNTIMES))
def test_a_board_says_what_it_lacks_without_importing_it(runtime):
    code = f"""
from nasdeploy.runtimes import RUNTIMES
before = set(sys.modules)
RUNTIMES[{runtime!r}].missing()
print({{name.split(".")[0] for name in set(sys.modules) - before}} & {{"onnxruntime", "openvino", "tensorrt"}})
"""
    done = on_a_board(code)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_what_a_board_is_sent_says_what_the_device_says():
    device = Device(
        name="pi",
        runtime="onnxruntime",
        host="ssh://user@board:2222",
        precision="int8",
        batch=4,
        threads=2,
        options={"a": "b"},
    )
    sent = LocalTarget(**json.loads(json.dumps(asdict(LocalTarget.of(device)))))
    for name in ("name", "runtime", "precision", "batch", "threads", "options"):
        assert getattr(sent, name) == getattr(device, name)
    assert sent.is_local
    assert not device.is_local
    assert runtime_of(sent) is RUNTIMES["onnxruntime"]
