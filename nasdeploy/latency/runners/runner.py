"""What a runner is: somewhere models are measured, on this machine or on a board; and the runner that is this process.

NumPy and the standard library only: the program on a board measures with the same functions.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol

from nasdeploy.core.cpus import available_memory
from nasdeploy.core.errors import ConversionRefused, UserError, one_line
from nasdeploy.latency.machine import Fingerprint, fingerprint_here
from nasdeploy.latency.measure import Group, Timed, in_groups, measure
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, Timing
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.runtime import Model, Target

ModelMaker = Callable[[], Model]
"""Makes a model in the runtime's form: when it is its turn, so that few are in memory, and again after a loss."""

Say = Callable[[str], None]
"""Tells the user something in one line."""


@dataclass(frozen=True)
class Refusal:
    """A model that a runtime cannot run, with its reason in one line."""

    reason: str


Outcome = Timing | Refusal
"""What becomes of a model that is to be measured."""


class Runner(Protocol):
    """Where the networks of a device run. A context: what was opened there is closed at its end, whatever happens."""

    @property
    def fingerprint(self) -> Fingerprint:
        """The machine's fingerprint, the same as long as the runner is open."""

    def measure(
        self,
        models: Mapping[str, ModelMaker],
        rounds: Rounds,
        protocol: MeasurementProtocol,
        *,
        on_visits: Callable[[int], None],
        reference: ModelMaker | None = None,
    ) -> Iterator[dict[str, Outcome]]:
        """Yield timings, or refusals, by key: every key once, some at a time, as soon as they are known.

        `on_visits` is called with the number of visits made since the last call. `reference` makes the reference graph
        that each group is measured beside. Raises `UserError` if the runner is lost.
        """

    def __enter__(self) -> "Runner": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


Open = Callable[[Model], Timed]
"""Opens a model in a runtime; raises `UserError` if that refuses it."""


def made(maker: ModelMaker) -> Model | Refusal:
    """Return a model, or why there is none: one that cannot be converted is no reason not to measure the others."""
    try:
        return maker()
    except ConversionRefused as error:
        return Refusal(str(error))


def opened(model: Model, open_model: Open) -> Timed | Refusal:
    """Return a session that was called once, or why it cannot run."""
    try:
        session = open_model(model)
    except UserError as error:
        return Refusal(str(error))
    try:
        session.call()
    # Each runtime has exceptions of its own for a model that it can load and not run.
    except Exception as error:
        session.close()
        return Refusal(f"it fails when it runs ({one_line(f'{type(error).__name__}: {error}')})")
    return session


def measure_sessions(
    sessions: Group[Timed], rounds: Rounds, protocol: MeasurementProtocol, on_visit: Callable[[], None]
) -> dict[str, Timing]:
    """Measure open sessions as one group; all of them are closed afterwards."""
    if not sessions.models:
        if sessions.reference is not None:
            sessions.reference.close()
        return {}
    openers = {key: _returning(session) for key, session in sessions.models.items()}
    reference = None if sessions.reference is None else _returning(sessions.reference)
    together = replace(rounds, group=len(openers) + (reference is not None))
    (timings,) = measure(openers, together, protocol, reference=reference, on_visit=on_visit)
    return timings


def _returning(session: Timed) -> Callable[[], Timed]:
    return lambda: session


class LocalRunner:
    """The sessions of this process."""

    def __init__(self, device: Target) -> None:
        """Raise `UserError` if the device's runtime is not installed."""
        self._device, self._runtime = device, runtime_of(device)
        computed_in = self._runtime.computes(device.precision)
        self.fingerprint: Fingerprint = fingerprint_here(device, self._runtime.version(), computed_in)

    def measure(
        self,
        models: Mapping[str, ModelMaker],
        rounds: Rounds,
        protocol: MeasurementProtocol,
        *,
        on_visits: Callable[[int], None],
        reference: ModelMaker | None = None,
    ) -> Iterator[dict[str, Outcome]]:
        """Measure as `Runner.measure` says; a group's sessions are open only while it is measured."""
        size = max(rounds.group, 0 if self._runtime.needs_gpu else rounds.group_with_room)
        waiting = dict(models)
        while waiting:
            # What does not fit into memory is left for the next group.
            group = next(in_groups(waiting, size, reference))
            beside = None if group.reference is None else self._opened(group.reference)
            tried = self._opened_while_room(group.models, rounds.group - (group.reference is not None))
            waiting = {key: maker for key, maker in waiting.items() if key not in tried}
            refused = {key: session for key, session in tried.items() if isinstance(session, Refusal)}
            sessions = {key: session for key, session in tried.items() if not isinstance(session, Refusal)}
            together = Group(sessions, None if isinstance(beside, Refusal) else beside)
            yield {**refused, **measure_sessions(together, rounds, protocol, lambda: on_visits(1))}

    def _opened_while_room(self, makers: Mapping[str, ModelMaker], least: int) -> dict[str, Timed | Refusal]:
        """Open `least` models, and more of them while half of the memory that was free before is left."""
        tried: dict[str, Timed | Refusal] = {}
        half = available_memory() / 2
        for key, maker in makers.items():
            if len(tried) >= least and available_memory() < half:
                break
            tried[key] = self._opened(maker)
        return tried

    def _opened(self, maker: ModelMaker) -> Timed | Refusal:
        model = made(maker)
        if isinstance(model, Refusal):
            return model
        return opened(model, lambda model: self._runtime.open(model, self._device))

    def __enter__(self) -> "LocalRunner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
