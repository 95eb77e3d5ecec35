"""What a runner is: somewhere models are measured, on this machine or on a board."""

from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Protocol

from nasdeploy.latency.machine import Fingerprint
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds
from nasdeploy.latency.runners.run_models import Outcome
from nasdeploy.runtimes import runtime

ModelMaker = Callable[[], runtime.Model]
"""Makes a model in the runtime's form: when it is its turn, so that few are in memory, and again after a loss."""

Say = Callable[[str], None]
"""Tells the user something in one line."""


class Runner(Protocol):
    """Where the networks of a device run. A context: what was opened there is closed at its end, whatever happens."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the machine; it is the same as long as the runner is open."""

    def measure(
        self,
        models: Mapping[str, ModelMaker],
        rounds: Rounds,
        protocol: MeasurementProtocol,
        *,
        on_visits: Callable[[int], None],
    ) -> Iterator[dict[str, Outcome]]:
        """Timings, or refusals, by key: every key once, some at a time, as soon as they are known.

        `on_visits` is called with the number of visits made since the last call. Raises `UserError` if the runner is
        lost.
        """

    def __enter__(self) -> "Runner": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
