"""Where models are measured: in this process, or on boards over SSH."""

from nasdeploy.latency.places.local import LocalPlace
from nasdeploy.latency.places.place import Place, Say
from nasdeploy.runtimes.device import Device


def open_place(device: Device, say: Say = lambda text: None) -> Place:
    """The place that `device` names; raises `UserError` if it cannot be used. `say` hears of losses and retries."""
    return LocalPlace(device)
