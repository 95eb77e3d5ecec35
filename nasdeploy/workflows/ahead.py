"""What the steps after training need, checked before it: nobody trains for a day to learn of a missing package.

Torch-free.
"""

from importlib.util import find_spec

from nasdeploy.core.errors import UserError
from nasdeploy.distributed import processes
from nasdeploy.exporting.jobs import plan_jobs
from nasdeploy.latency.table import TABLES
from nasdeploy.recipe import Recipe
from nasdeploy.runtimes import described_runtime, runtime_of
from nasdeploy.runtimes.device import Device, load_device
from nasdeploy.searching.budget import Asked, split_device
from nasdeploy.store.files import require_writable
from nasdeploy.workflows.request import asked_or_recipes, latency_devices, latency_texts, require_any


def require_whole_way(recipe: Recipe, asked: Asked) -> None:
    """Raise `UserError` if a run of a recipe cannot be profiled, searched within a budget and exported here.

    What depends on the space is checked by `foresee_search`.
    """
    if processes() > 1:
        raise UserError(
            "torchrun: only `nd.train()` and `nd.search()` use several processes; do these first, then go on without it"
        )
    if recipe.train.sampling.kind == "alone":
        raise UserError(
            "train.sampling.kind is alone: one network is trained, and there is nothing to search; use "
            "`nd.train()` and `nd.export()`"
        )
    require_any(asked_or_recipes(asked, recipe))
    devices = latency_devices(recipe, asked)
    target = load_device(export_device(recipe, asked))
    if not target.is_local:
        raise UserError(
            f"device {target.name}: `workflows.run.run_all()` ends with an export that is proved on this machine, and "
            "the device is another one; use `nd.train()`, 'profile' and 'search', then `nd.export(device=cpu)`"
        )
    plan_jobs(("onnx",), target)
    for device in devices:
        (runtime_of if device.is_local else _reachable)(device)
    if devices:
        require_writable(TABLES / "table.json")


def _reachable(device: Device) -> None:
    """Raise `UserError` unless the packages are here with which networks are measured on another machine."""
    described_runtime(device)
    if find_spec("asyncssh") is None:
        raise UserError(f"device {device.name}: it is measured over SSH, for which run: pip install asyncssh")


def export_device(recipe: Recipe, asked: Asked) -> str:
    """Return name or file of the device that the winner within the budget `asked` is exported for.

    The first of the budget's devices that is this machine, else the recipe's.
    """
    texts = latency_texts(asked_or_recipes(asked, recipe))
    named = [given or recipe.device for given, _ in map(split_device, texts)]
    return next((name for name in named if load_device(name).is_local), recipe.device)
