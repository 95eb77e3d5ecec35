"""From a device to the place that it names."""

from nasdeploy.latency.places.local import LocalPlace
from nasdeploy.latency.places.place import Place, Say
from nasdeploy.latency.places.ssh import SshPlace
from nasdeploy.latency.places.team import Team
from nasdeploy.runtimes.device import Device


def open_place(device: Device, say: Say = lambda text: None) -> Place:
    """The place that `device` names; raises `UserError` if it cannot be used. `say` hears of losses and retries."""
    if device.is_local:
        return LocalPlace(device)
    if len(device.boards) == 1:
        return SshPlace(device, device.boards[0], say)
    return Team.of(device, say)
