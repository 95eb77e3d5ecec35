"""Measuring models in this process: what a runner on this machine and the program on a board have in common.

NumPy and the standard library only: this also runs on a small board.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, Timed, Timing, in_groups, measure
from nasdeploy.runtimes.runtime import Model


@dataclass(frozen=True)
class Refusal:
    """A model that a runtime cannot run, with its reason in one line."""

    reason: str


Outcome = Timing | Refusal

Open = Callable[[Model], Timed]
"""Opens a model in a runtime; raises `UserError` if that refuses it."""


def opened(model: Model, open_model: Open) -> Timed | Refusal:
    """A session that was called once, or why it cannot run."""
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
    sessions: Mapping[str, Timed], rounds: Rounds, protocol: MeasurementProtocol, on_visit: Callable[[], None]
) -> dict[str, Timing]:
    """Timings of open sessions, which are one group of `rounds`, visited in turn; all of them are closed afterwards."""
    if not sessions:
        return {}
    openers = {key: _returning(session) for key, session in sessions.items()}
    (timings,) = measure(openers, replace(rounds, group=len(sessions)), protocol, on_visit=on_visit)
    return timings


def _returning(session: Timed) -> Callable[[], Timed]:
    return lambda: session


def measure_models(
    models: Mapping[str, Callable[[], Model]],
    rounds: Rounds,
    protocol: MeasurementProtocol,
    open_model: Open,
    on_visit: Callable[[], None],
) -> Iterator[dict[str, Outcome]]:
    """Outcomes by key, group after group; a group's sessions are open only while it is measured."""
    for group in in_groups(models, rounds.group):
        tried = {key: opened(model(), open_model) for key, model in group.items()}
        refused = {key: session for key, session in tried.items() if isinstance(session, Refusal)}
        sessions = {key: session for key, session in tried.items() if not isinstance(session, Refusal)}
        yield {**refused, **measure_sessions(sessions, rounds, protocol, on_visit)}
