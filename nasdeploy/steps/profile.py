"""Measuring the space of a run."""

from nasdeploy.latency.files import find_table, table_path
from nasdeploy.latency.profile import profile
from nasdeploy.latency.table import LatencyTable
from nasdeploy.progress import Progress
from nasdeploy.recipe import Recipe, space_of
from nasdeploy.runtimes.device import load_device
from nasdeploy.store.run import Run


def ensure_table(run: Run, recipe: Recipe, progress: Progress) -> LatencyTable:
    """The latency table of a run's space on the recipe's device, measured now if there is none yet."""
    space, device = space_of(run), load_device(recipe.device)
    path = table_path(space, device)
    if path.exists():
        progress.say(f"profile: {path} is there")
        return find_table(space, device)
    progress.say(f"profile: space {space.name} on device {device.name}, into {path}")
    table = profile(space, device, path, progress)
    run.finish("profile", {"device": device.name, "table": str(path)})
    return table
