"""Models that are measured each on a device of its own, all in turn: so that a slow minute falls on all of them.

They are opened by several runtimes, or on several boards, and one process has one runtime: each model gets a process
for its share of the visits, then the next model, and so on several times.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from nasdeploy.core.errors import UserError
from nasdeploy.latency.protocol import MeasurementProtocol, Timing
from nasdeploy.latency.runners.open_runner import connected
from nasdeploy.latency.runners.processes import BUILT, PROCESSES, ProcessRunner, combined
from nasdeploy.latency.runners.runner import LocalRunner, Outcome, Refusal, Runner, Say
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Model


@dataclass(frozen=True)
class DeviceModel:
    """A model and the device that it is measured on."""

    device: Device
    model: Model
    """The model; one that is not bytes is opened in this process, where the device is this machine."""

    @property
    def is_of_this_process(self) -> bool:
        """Whether it is measured in this process, which knows modules and files that lie here."""
        return self.device.is_local and not isinstance(self.model, bytes)

    @property
    def openings(self) -> int:
        """How often it is opened anew; once where that takes minutes."""
        return 1 if self.device.runtime in BUILT else PROCESSES

    def visits(self, protocol: MeasurementProtocol) -> int:
        """Return how many visits are made to it each time."""
        return ceil(protocol.networks.visits / self.openings)

    def measure(self, protocol: MeasurementProtocol, say: Say, on_visits: Callable[[int], None]) -> Outcome:
        """Open it, measure its share of the visits and close it.

        What keeps the device from being used is a refusal, and so is the end of the process.
        """
        rounds = replace(protocol.networks, group=1, visits=self.visits(protocol))
        share = replace(protocol, shortest_group_s=protocol.shortest_group_s / self.openings)
        try:
            with self._runner(say) as runner:
                (found,) = runner.measure({"": lambda: self.model}, rounds, share, on_visits=on_visits)
                return found[""]
        except UserError as error:
            return Refusal(str(error))

    def _runner(self, say: Say) -> Runner:
        if self.is_of_this_process:
            return LocalRunner(self.device)
        return ProcessRunner(self.device) if self.device.is_local else connected(self.device, say)

    def timing(self, timings: Sequence[Timing]) -> Timing:
        """Return the timings of all openings as one, which says what processes differed by if there were several."""
        whole = combined(timings)
        return replace(whole, processes=()) if self.is_of_this_process or self.openings == 1 else whole


def measure_in_turn(
    models: Mapping[str, DeviceModel], protocol: MeasurementProtocol, say: Say, on_visits: Callable[[int], None]
) -> dict[str, Outcome]:
    """Measure models by the protocol for whole networks, each on its device; what is refused once is not tried again.

    `on_visits` is called with the number of visits made since the last call.
    """
    timings: dict[str, list[Timing]] = {name: [] for name in models}
    refused: dict[str, Refusal] = {}
    for number in range(max((each.openings for each in models.values()), default=0)):
        for name, each in models.items():
            if number >= each.openings or name in refused:
                continue
            outcome = each.measure(protocol, say, on_visits)
            if isinstance(outcome, Refusal):
                refused[name] = outcome
            else:
                timings[name].append(outcome)
    return {name: refused.get(name) or each.timing(timings[name]) for name, each in models.items()}
