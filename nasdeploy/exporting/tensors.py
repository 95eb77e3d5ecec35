"""What is delivered of a network of any task: a file for each part, and a sample of tensors with expected outputs.

Files are scored as the task scores networks: the parts' sessions are run in PyTorch's place, on the whole test set, and
each of their outputs is compared with PyTorch's for the same inputs.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasdeploy.core.plan import Plan
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.bundle.verify import TensorSample
from nasdeploy.exporting.compare import SAMPLE, Disagreement, Sessions, Yardstick, outputs_of
from nasdeploy.exporting.conversions import Examples
from nasdeploy.exporting.manifest import Artefact, Embedded, TaskManifest, part_facts
from nasdeploy.nn.network import Network
from nasdeploy.runtimes.runtime import Array
from nasdeploy.tasks.file_scores import FileScore
from nasdeploy.tasks.task import Task, TaskData

_TEST_BATCH = 32


class TensorReference:
    """A network in evaluation mode on the CPU, and the test samples of its task. It is a `Reference`."""

    def __init__(self, network: Network, task: Task, data: TaskData) -> None:
        self.network, self._task, self._data = network, task, data
        self.names = task.tensor_names(network.plan)
        self._samples: dict[str, tuple[Array, ...]] = {}
        self._pytorch: float | None = None

    def samples(self) -> Mapping[str, tuple[Array, ...]]:
        """Return what the task gives each part for the first test samples, at most `SAMPLE` rows of each."""
        if not self._samples:
            recording = _Recording(self.network)
            inputs, _ = next(iter(self._data.test(_TEST_BATCH)))
            with torch.no_grad():
                self._task.outputs(recording, inputs)
            self._samples = recording.rows()
        return self._samples

    def outputs(self, part: str, inputs: Sequence[Array]) -> list[Array]:
        """Return PyTorch's outputs of a part; raises `Disagreement` if they are no numbers."""
        with torch.no_grad():
            found = [each.numpy() for each in self.network.run(part, *(torch.from_numpy(each) for each in inputs))]
        if not all(np.isfinite(each).all() for each in found):
            raise Disagreement(f"PyTorch's own outputs of {part} are not finite: train further")
        return found

    def score(self, sessions: Sessions, yardstick: Yardstick, progress: Progress) -> FileScore:
        """Return the score of the files on the test set, beside PyTorch's.

        Raises `Disagreement` if any output differs from PyTorch's, for the same inputs, by more than the tolerance.
        """
        progress.say("export: the score of the files on the test set")
        compared = _Compared(sessions, self, yardstick)
        with torch.no_grad():
            found = self._task.score(compared, self._data.test(_TEST_BATCH))
            if self._pytorch is None:
                self._pytorch = self._task.score(self.network, self._data.test(_TEST_BATCH)).value
        what = f"outputs of {yardstick.beyond(compared.rows)} of {len(compared.rows)} rows differ"
        return FileScore(
            metric=found.metric,
            samples=found.samples,
            value=found.value,
            error=found.error,
            value_pytorch=self._pytorch,
            difference=yardstick.within(compared.rows, what),
        )


class _Recording:
    """A network that remembers what its parts are given."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._given: dict[str, list[tuple[Tensor, ...]]] = {}

    @property
    def plan(self) -> Plan:
        return self._network.plan

    def run(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        self._given.setdefault(part, []).append(inputs)
        return self._network.run(part, *inputs)

    def rows(self) -> dict[str, tuple[Array, ...]]:
        """Return for each part some rows of each input, from all of its calls."""
        found = {}
        for part, calls in self._given.items():
            joined = [torch.cat(column).numpy() for column in zip(*calls, strict=True)]
            count = len(joined[0])
            places = np.linspace(0, count - 1, min(count, SAMPLE)).round().astype(int)
            found[part] = tuple(array[places] for array in joined)
        return found


class _Compared:
    """The sessions of a network's files in its place; what they give is compared with what PyTorch gives."""

    def __init__(self, sessions: Sessions, reference: TensorReference, yardstick: Yardstick) -> None:
        self._sessions, self._reference, self._yardstick = sessions, reference, yardstick
        self._rows: list[Array] = []

    @property
    def plan(self) -> Plan:
        return self._reference.network.plan

    @property
    def rows(self) -> Array:
        """The differences of all outputs so far."""
        return np.concatenate(self._rows)

    def run(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        arrays = [each.numpy() for each in inputs]
        found = outputs_of(self._sessions[part], arrays)
        for expected, given in zip(self._reference.outputs(part, arrays), found, strict=True):
            self._rows.append(self._yardstick.rows(expected, given))
        return tuple(torch.from_numpy(each) for each in found)


class SessionNetwork:
    """The sessions of a network's files in its place, where PyTorch's network is not there any more."""

    def __init__(self, sessions: Sessions, plan: Plan) -> None:
        self._sessions, self.plan = sessions, plan

    def run(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of a part; raises `Disagreement` if its runtime does not get that far."""
        found = outputs_of(self._sessions[part], [each.numpy() for each in inputs])
        return tuple(torch.from_numpy(each) for each in found)


class TensorDeliverable:
    """The deliverable of a network of any task, in fp32."""

    def __init__(self, network: Network, task: Task, data: TaskData) -> None:
        self.reference, self._task = TensorReference(network, task, data), task

    def examples(self) -> Examples | None:
        """Return None: precisions below fp32 are judged on images only."""
        return None

    def manifest(self, facts: Mapping[str, Any]) -> TaskManifest:
        """Return the manifest of some models, with the task and the parts."""
        names = self.reference.names
        parts = tuple(part_facts(part, names[part.name]) for part in self.reference.network.plan.parts)
        return TaskManifest(**facts, task=self._task.name, parts=parts)

    def sample(self, models: Mapping[str, Callable[[], Sessions]]) -> TensorSample:
        """Return one row of the samples of each part, with the outputs of PyTorch and of each model that runs here."""
        inputs = {part: tuple(each[:1] for each in arrays) for part, arrays in self.reference.samples().items()}
        outputs = {"": {part: tuple(self.reference.outputs(part, given)) for part, given in inputs.items()}}
        for name, opened in models.items():
            sessions = opened()
            outputs[name] = {part: tuple(outputs_of(sessions[part], given)) for part, given in inputs.items()}
            for session in sessions.values():
                session.close()
        return TensorSample(inputs, outputs)

    def embed(self, stage: Path, passed: Sequence[Artefact]) -> tuple[Embedded, ...]:
        """Return none: there is no preprocessing."""
        return ()
