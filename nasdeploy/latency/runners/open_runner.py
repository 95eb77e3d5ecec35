"""From a device to the runner that it names."""

from nasdeploy.latency.machine import Fingerprint
from nasdeploy.latency.runners.local import LocalRunner
from nasdeploy.latency.runners.pool import RunnerPool
from nasdeploy.latency.runners.runner import Runner, Say
from nasdeploy.latency.runners.ssh import SshRunner
from nasdeploy.runtimes.device import Device


def open_runner(device: Device, say: Say = lambda text: None) -> Runner:
    """The runner that `device` names; raises `UserError` if it cannot be used. `say` hears of losses and retries."""
    runner = reached(device, say)
    if (line := crowding(device, runner.fingerprint)) is not None:
        say(line)
    return runner


def reached(device: Device, say: Say) -> Runner:
    """The same, without a word on threads: for a runner that is opened again and again."""
    if device.is_local:
        return LocalRunner(device)
    if len(device.boards) == 1:
        return SshRunner(device, device.boards[0], say)
    return RunnerPool.of(device, say)


def crowding(device: Device, machine: Fingerprint) -> str | None:
    """What to say of a device with more threads than there are processors for them; None if there are enough."""
    quota = machine.cpu_quota
    usable = machine.cores if quota is None else min(machine.cores, quota)
    if device.threads <= usable:
        return None
    limit = "" if quota is None else f", of which a quota leaves {quota:g}"
    what = (
        f"they wait for each other, which threads: {int(usable)} would not"
        if usable >= 1
        else "calls stand still whenever it is used up"
    )
    plural = "" if device.threads == 1 else "s"
    return f"device {device.name}: {device.threads} thread{plural} for {machine.cores} cores{limit}: {what}"
