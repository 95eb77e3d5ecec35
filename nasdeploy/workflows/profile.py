"""Measuring the space of a run."""

from nasdeploy.core.progress import Progress
from nasdeploy.latency.profile import profile
from nasdeploy.latency.table import LatencyTable, find_table, table_path
from nasdeploy.recipe import Recipe, space_of
from nasdeploy.runtimes.device import Device
from nasdeploy.store.run import Run


def ensure_table(run: Run, recipe: Recipe, device: Device, progress: Progress) -> LatencyTable:
    """Return the latency table of the space of a run with that recipe on a device, measured now if there is none."""
    space = space_of(run, recipe)
    path = table_path(space, device)
    if path.exists():
        progress.say(f"profile: {path} is there")
        return find_table(space, device)
    progress.say(f"profile: space {space.name} on device {device.name}, into {path}")
    table = profile(space, device, path, progress)
    run.finish("profile", {"device": device.name, "table": str(path)})
    return table
