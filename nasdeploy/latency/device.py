"""What a latency table was measured on."""

from nasdeploy.latency.machine import Fingerprint
from nasdeploy.latency.runners.open_runner import open_place
from nasdeploy.runtimes.device import Device


def fingerprint(device: Device) -> Fingerprint:
    """Of the machine that `device` names, this one or a board; raises `UserError` if it cannot be asked."""
    with open_place(device) as place:
        return place.fingerprint
