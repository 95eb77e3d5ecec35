"""PyTorch as a runtime."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import TensorType
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import TorchModel
from tests.conformance.runtime_models import small_onnx
from tests.nn.test_compiled import FRUGAL

DEVICE = Device(name="here", runtime="torch")


class Refusing(nn.Module):
    def forward(self, x):
        raise ValueError("no\nsuch thing")


class Threads(nn.Module):
    """Gives the number of threads that it runs with."""

    def forward(self, x):
        return torch.full((1,), float(torch.get_num_threads()))


def opened(module, device=DEVICE):
    return runtime_of(device).open(TorchModel(module, {"input": TensorType((4,))}), device)


def test_threads_are_the_devices_during_a_call_and_as_before_afterwards():
    before = torch.get_num_threads()
    three = DEVICE.model_copy(update={"threads": 3})
    x = {"input": np.zeros((1, 4), dtype=np.float32)}
    assert opened(Threads(), three).run(x)[0].item() == 3
    assert opened(Threads()).run(x)[0].item() == 1
    assert torch.get_num_threads() == before


def test_a_module_that_fails_is_one_line():
    with pytest.raises(UserError, match=r"^the model: PyTorch cannot run it \(no such thing\); correct the module$"):
        opened(Refusing())


def test_training_mode_is_left():
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    x = {"input": np.ones((2, 4), dtype=np.float32)}
    session = opened(module)
    np.testing.assert_array_equal(session.run(x)[0], session.run(x)[0])


@pytest.mark.parametrize("as_file", [False, True])
def test_files_are_refused_with_the_way_out(tmp_path, as_file):
    file = tmp_path / "model.onnx"
    file.write_bytes(small_onnx(1))
    with pytest.raises(UserError, match="PyTorch runs modules, not files; open it on a device of another runtime"):
        runtime_of(DEVICE).open(file if as_file else file.read_bytes(), DEVICE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compil": "true"}, "device here: option 'compil' is unknown to torch; did you mean 'compile'"),
        ({"compile": "yes"}, r"device here: option 'compile' is \"yes\"; write \"true\" or \"false\""),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(UserError, match=message):
        opened(nn.ReLU(), DEVICE.model_copy(update={"options": options}))


COMPILED = """
import numpy as np
import torch
from torch import nn
from nasdeploy.core.plan import TensorType
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import TorchModel

def opened(**options):
    device = Device(name="here", runtime="torch", options=options)
    return runtime_of(device).open(TorchModel(module, {"input": TensorType((4,))}), device)

module = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 4))
x = {"input": np.random.default_rng(0).standard_normal((1, 4)).astype(np.float32)}
compiled = opened(compile="true")
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
np.testing.assert_allclose(compiled.run(x)[0], opened().run(x)[0], rtol=1e-5, atol=1e-6)
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_is_another_program_with_the_same_outputs():
    # In a process of its own: generated code brings its own OpenMP, which ends a process that holds other runtimes.
    # For one kernel its headers are not compiled beforehand.
    frugal = {**os.environ, **FRUGAL, "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0"}
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False, env=frugal)
    assert done.returncode == 0, done.stderr
