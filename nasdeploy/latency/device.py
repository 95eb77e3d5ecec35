"""What a latency table was measured on."""

from nasdeploy.latency.machine import Fingerprint
from nasdeploy.latency.runners.open_runner import open_runner
from nasdeploy.runtimes.device import Device


def fingerprint(device: Device) -> Fingerprint:
    """Of the machine that `device` names, this one or a board; raises `UserError` if it cannot be asked."""
    with open_runner(device) as runner:
        return runner.fingerprint
