"""Several processes, one after the other: where things lie in memory, and so how fast they are, differs by process.

Medians of a small network in twelve processes within two minutes went from 0.047 to 0.092 ms on a quiet virtual
machine, while the runs in each varied little. What is measured in one process alone is that process's.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import TracebackType

from nasdeploy.latency.machine import Fingerprint
from nasdeploy.latency.protocol import MeasurementProtocol, Noise, Rounds, Timing
from nasdeploy.latency.runners.open_runner import crowding, open_runner, reached
from nasdeploy.latency.runners.process import ProcessRunner
from nasdeploy.latency.runners.run_models import Outcome, Refusal
from nasdeploy.latency.runners.runner import ModelMaker, Runner, Say
from nasdeploy.latency.throughput import SustainedCalls
from nasdeploy.runtimes import described_runtime
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import TorchModel, content_of

PROCESSES = 5
"""Of which one that is twice as slow as the others moves no median."""
_BUILT = ("tensorrt", "tensorrt-rtx")
"""Runtimes that build an engine whenever they open a model, for up to minutes; the engine is what is fast or slow."""


def open_processes(device: Device, say: Say = lambda text: None, number: int = PROCESSES) -> Runner:
    """A runner that measures in `number` processes that are started anew, here or on the device's board.

    In one where the runtime opens no files, or takes long to. Raises `UserError` if the device cannot be used.
    """
    if (device.is_local and described_runtime(device).form == "module") or device.runtime in _BUILT or number == 1:
        return open_runner(device, say)
    return Processes(device, say, number)


class Processes:
    """Several processes of a device. The first one is started at once, so that what is wrong is known."""

    def __init__(self, device: Device, say: Say, number: int) -> None:
        self._device, self._say, self._number = device, say, number
        self._first: Runner | None = self._started()
        self.fingerprint: Fingerprint = self._first.fingerprint
        if (line := crowding(device, self.fingerprint)) is not None:
            say(line)

    def _started(self) -> Runner:
        return ProcessRunner(self._device) if self._device.is_local else reached(self._device, self._say)

    def measure(
        self,
        models: Mapping[str, ModelMaker],
        rounds: Rounds,
        protocol: MeasurementProtocol,
        *,
        on_visits: Callable[[int], None],
    ) -> Iterator[dict[str, Outcome]]:
        """See `Runner.measure`: all at the end. Processes share the visits, and the shortest time of a group."""
        share = replace(rounds, visits=ceil(rounds.visits / self._number))
        once = replace(protocol, retries=0, shortest_group_s=protocol.shortest_group_s / self._number)
        told = _Told(on_visits, rounds.visits * len(models), share.visits * len(models) * self._number)
        refused: dict[str, Outcome] = {}
        found: dict[str, list[Timing]] = {key: [] for key in models}
        with TemporaryDirectory() as folder:
            kept = {key: _kept(model, Path(folder, str(number))) for number, (key, model) in enumerate(models.items())}
            for _ in range(self._number):
                wanted = {key: model for key, model in kept.items() if key not in refused}
                if not wanted:
                    break
                runner, self._first = self._first or self._started(), None
                with runner:
                    for outcomes in runner.measure(wanted, share, once, on_visits=told.count):
                        for key, outcome in outcomes.items():
                            if isinstance(outcome, Refusal):
                                refused[key] = outcome
                            else:
                                found[key].append(outcome)
        yield {key: refused[key] if key in refused else combined(found[key]) for key in models}

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._first is not None:
            self._first.__exit__(kind, error, trace)


class _Told:
    """Tells of visits as if there were as many as the caller asked for, and no more for the processes' sake."""

    def __init__(self, tell: Callable[[int], None], asked: int, made: int) -> None:
        self._tell, self._asked, self._all = tell, asked, made
        self._made = self._said = 0

    def count(self, visits: int) -> None:
        self._made += visits
        due = min(self._asked, self._made * self._asked // self._all)
        if due > self._said:
            self._tell(due - self._said)
            self._said = due


def _kept(model: ModelMaker, path: Path) -> ModelMaker:
    """A model that is made once, and in a file for the other processes: making takes longer than measuring."""

    def made() -> bytes:
        if not path.exists():
            content = model()
            assert not isinstance(content, TorchModel), "modules are measured in one process"
            path.write_bytes(content_of(content)[1])
        return path.read_bytes()

    return made


def combined(timings: Sequence[Timing]) -> Timing:
    """A timing whose percentiles are the medians of those of the processes; it says what those differed by."""
    references = [timing.reference for timing in timings if timing.reference is not None]
    stretches = [timing.throughput for timing in timings if timing.throughput is not None]
    return Timing(
        median=median(timing.median for timing in timings),
        p10=median(timing.p10 for timing in timings),
        p90=median(timing.p90 for timing in timings),
        p95=median(timing.p95 for timing in timings),
        n=sum(timing.n for timing in timings),
        at=timings[-1].at,
        noise=_noise([timing.noise for timing in timings]),
        reference=median(references) if references else None,
        throughput=SustainedCalls(sum(each.calls for each in stretches), sum(each.seconds for each in stretches))
        if stretches
        else None,
        processes=tuple(sorted(timing.median for timing in timings)),
    )


def _noise(found: Sequence[Noise]) -> Noise:
    """What was wrong most often, where it was in more than half of the processes: the others outvote it otherwise."""
    wrong = [noise for noise in found if noise]
    return Counter(wrong).most_common(1)[0][0] if len(wrong) > len(found) / 2 else ""
