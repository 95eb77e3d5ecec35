"""Where latency tables lie: one file for each device and space."""

from pathlib import Path

from nasdeploy.core.errors import UserError
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.table import LatencyTable
from nasdeploy.runtimes.device import Device

TABLES = Path("profiles/tables")


def table_path(space: SearchSpace, device: Device, folder: Path = TABLES) -> Path:
    """The file of the table of `space` on `device`, whether or not there is one."""
    return folder / f"{device.name}-{space.name}-{space.digest}-{space.output_size}.json"


def find_table(space: SearchSpace, device: Device, folder: Path = TABLES) -> LatencyTable:
    """The table of `space` on `device`; raises `UserError` if there is none, or it is damaged or of another space."""
    path = table_path(space, device, folder)
    if not path.exists():
        raise UserError(
            f"{path}: no latency table yet of space {space.name} with {space.output_size} classes on device "
            f"{device.name}; measure it with 'nasdeploy profile --device {device.name}'"
        )
    table = LatencyTable.load(path)
    table.require_space(space)
    return table
