"""Torch takes seconds to import, and a small board has none: the lower layers and the command line do without."""

import subprocess
import sys

from tests.layers import is_torch_free, modules

HEAVY = {"torch", "torchvision", "timm", "onnx", "onnxruntime", "sklearn", "scipy", "matplotlib"}


def imported_by(code: str, *arguments: str) -> set[str]:
    """Top-level modules that are in memory after running `code`."""
    script = f"import sys\ntry:\n    {code}\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stderr.splitlines()[-1].split()}


def test_help_leaves_torch_alone() -> None:
    found = imported_by("from nasdeploy.cli.main import main; main()", "--help")
    assert "nasdeploy" in found
    assert found & HEAVY == set()


def test_the_list_of_devices_leaves_numpy_alone() -> None:
    found = imported_by("from nasdeploy.cli.main import main; main()", "devices")
    assert "nasdeploy" in found
    assert found & (HEAVY | {"numpy"}) == set()


def test_lower_layers_settings_and_commands_leave_torch_alone() -> None:
    names = [name for name in modules() if is_torch_free(name)]
    assert {"nasdeploy.core.space", "nasdeploy.store.run", "nasdeploy.cli.app"} <= set(names)
    found = imported_by(f"import {', '.join(names)}")
    assert found & HEAVY == set()


def test_the_check_would_notice() -> None:
    assert "sklearn" in imported_by("import sklearn")
