"""This machine, and this process."""

from collections.abc import Callable, Iterator, Mapping
from types import TracebackType

from nasdeploy.latency.machine import Fingerprint, fingerprint_here
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds
from nasdeploy.latency.runners.run_models import Outcome, measure_models
from nasdeploy.latency.runners.runner import ModelMaker
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import Device


class LocalRunner:
    """Sessions of this process."""

    def __init__(self, device: Device) -> None:
        """Raises `UserError` if the device's runtime is not installed."""
        self._device, self._runtime = device, runtime_of(device)
        self.fingerprint: Fingerprint = fingerprint_here(device, self._runtime.version())

    def measure(
        self,
        models: Mapping[str, ModelMaker],
        rounds: Rounds,
        protocol: MeasurementProtocol,
        *,
        on_visits: Callable[[int], None],
    ) -> Iterator[dict[str, Outcome]]:
        """See `Runner.measure`."""
        return measure_models(
            models,
            rounds,
            protocol,
            open_model=lambda model: self._runtime.open(model, self._device),
            on_visit=lambda: on_visits(1),
        )

    def __enter__(self) -> "LocalRunner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
