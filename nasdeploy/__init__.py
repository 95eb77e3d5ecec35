"""nasdeploy: from images and a device to the most accurate network that measurably meets a latency budget.

`import nasdeploy as nd` has the functions of `nasdeploy.api` and the types that they take and give. They are imported
when they are first used, so that importing the package takes no time and no PyTorch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# From 1.29 on ONNX Runtime tells its maker of models and machines, unless it is imported where this is set.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from nasdeploy.api import (
        Export,
        compare_runtimes,
        export,
        finetune,
        import_supernet,
        init,
        pack,
        profile,
        search,
        search_devices,
        train,
        unpack,
    )
    from nasdeploy.core.arch import Arch, Choice
    from nasdeploy.core.errors import CheckFailed, InfeasibleBudget, NasdeployError, UserError
    from nasdeploy.core.plan import Block, TensorType
    from nasdeploy.core.space import SearchSpace, Slot
    from nasdeploy.exporting.manifest import ExportManifest
    from nasdeploy.latency.table import LatencyTable
    from nasdeploy.recipe import Recipe
    from nasdeploy.searching.result import SearchResult
    from nasdeploy.store.run import Run
    from nasdeploy.workflows.report import report_of, write_report

__version__ = "0.1.0"

_HOMES = {
    "nasdeploy.api": (
        "Export",
        "compare_runtimes",
        "export",
        "finetune",
        "import_supernet",
        "init",
        "pack",
        "profile",
        "search",
        "search_devices",
        "train",
        "unpack",
    ),
    "nasdeploy.core.arch": ("Arch", "Choice"),
    "nasdeploy.core.errors": ("CheckFailed", "InfeasibleBudget", "NasdeployError", "UserError"),
    "nasdeploy.core.plan": ("Block", "TensorType"),
    "nasdeploy.core.space": ("SearchSpace", "Slot"),
    "nasdeploy.exporting.manifest": ("ExportManifest",),
    "nasdeploy.latency.table": ("LatencyTable",),
    "nasdeploy.recipe": ("Recipe",),
    "nasdeploy.searching.result": ("SearchResult",),
    "nasdeploy.store.run": ("Run",),
    "nasdeploy.workflows.report": ("report_of", "write_report"),
}
"""The module of each public name."""

__all__ = [  # noqa: RUF022 (a test compares it with the above)
    "Export", "compare_runtimes", "export", "finetune", "import_supernet", "init", "pack", "profile", "search",
    "search_devices", "train", "unpack",
    "Arch", "Choice", "CheckFailed", "InfeasibleBudget", "NasdeployError", "UserError", "Block", "TensorType",
    "SearchSpace", "Slot", "ExportManifest", "LatencyTable", "Recipe", "SearchResult", "Run",
    "report_of", "write_report",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'nasdeploy' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
