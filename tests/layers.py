"""The layers of nasdeploy, from the bottom up, and its modules."""

from functools import cache
from pathlib import Path

import nasdeploy

PACKAGE = Path(nasdeploy.__file__).parent

LAYERS = (
    "core",
    "tasks.metrics",
    "blocks",
    "spaces",
    "store",
    "runtimes",
    "latency",
    "nn",
    "supernet",
    "data",
    "convert",
    "tasks",
    "supernet.evaluate supernet.importance",
    "importers",
    "latency.profile",
    "distributed",
    "training searching exporting",
    "report",
    "recipe",
    "workflows initial_recipe",
    "workflows.run",
    "api",
    "cli",
)
FIRST_WITH_TORCH = "nn"
_FRONTS = ("nasdeploy.tasks", "nasdeploy.tasks.task", "nasdeploy.tasks.classification", "nasdeploy.tasks.metrics")
"""Modules above it that must leave torch alone until they compute."""


@cache
def modules() -> dict[str, Path]:
    """Files by module name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def layer(module: str) -> int:
    """Number of a module's layer; the package itself is below all."""
    inside = module.split(".")[1:]
    for length in range(len(inside), 0, -1):
        for number, names in enumerate(LAYERS):
            if ".".join(inside[:length]) in names.split():
                return number
    assert module == "nasdeploy", f"{module} belongs to no layer"
    return -1


def is_torch_free(module: str) -> bool:
    """Whether importing it must leave torch alone: the lower layers, all settings, and the command line."""
    last = module.split(".")[-1]
    below = layer(module) < next(number for number, names in enumerate(LAYERS) if names == FIRST_WITH_TORCH)
    return below or last in ("settings", "recipe") or module.startswith("nasdeploy.cli") or module in _FRONTS
