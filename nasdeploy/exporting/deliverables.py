"""What is delivered of a network: its files, what they are proved by, and a sample with expected outputs.

That of any task is a file for each part, and tensors. Files are scored as the task scores networks: the parts' sessions
are run in PyTorch's place, on the whole test set, and each of their outputs is compared with PyTorch's for the same
inputs.

That of a classifier of images has more: pictures, their preprocessing, fp16 and int8. The test set is read from its
image files by the steps that the manifest states, which has to give what evaluation gives; calibration and held-out
images are training images, prepared as for evaluation.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasdeploy.core.plan import Plan
from nasdeploy.core.progress import Progress
from nasdeploy.data.batches import evaluation_batches
from nasdeploy.data.images import Images, ImageSets, readable
from nasdeploy.data.settings import DataSettings, Preprocessing
from nasdeploy.data.transforms import prepare
from nasdeploy.exporting.bundle.preprocessing_graph import embed_models
from nasdeploy.exporting.bundle.verify import Sample, TensorSample, make_sample
from nasdeploy.exporting.conversions import Examples
from nasdeploy.exporting.manifest import Artefact, Embedded, ExportManifest, TaskManifest, part_facts
from nasdeploy.exporting.predictions import FilePredictions, PredictionTally
from nasdeploy.exporting.record import (
    SAMPLE,
    TOLERANCE,
    Disagreement,
    Sessions,
    Yardstick,
    difference,
    logits_of,
    outputs_of,
    within,
)
from nasdeploy.nn.functional import rescale
from nasdeploy.nn.network import Network
from nasdeploy.runtimes.runtime import Array
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.file_scores import Accuracy, AccuracyTally, FileScore
from nasdeploy.tasks.image_data import ImageData, side_of
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

    def predictions(self) -> FilePredictions | None:
        """Return None: the samples are no pictures of some class."""
        return None


_CALIBRATION = 256
_CALIBRATION_BATCH = 4
"""The images of a calibration batch; few, since all activations of a batch are in memory at once."""
_HELD_OUT = 2000


@dataclass(frozen=True)
class TestBatch:
    """Some test images, and what PyTorch makes of them."""

    inputs: Array
    """`[N, 3, side, side]`, prepared as the manifest says."""
    labels: Array
    logits: Array


@dataclass(frozen=True)
class ImageReference:
    """A classifier in evaluation mode on the CPU, and test images. It is a `Reference`."""

    network: Network
    preprocessing: Preprocessing
    images: Images
    data: DataSettings
    unreadable: int = 0
    """The number of test images that are not among them, because they cannot be read."""
    _known: list[tuple[Array, Array]] = field(default_factory=list, init=False, repr=False, compare=False)
    """Labels and logits of the test set, once they are known: several files are compared with them."""
    _answers: list[PredictionTally] = field(default_factory=list, init=False, repr=False, compare=False)
    """The answers of the file that was scored last, once it was scored on the whole test set."""

    @classmethod
    def of(cls, network: Network, sets: ImageSets, data: DataSettings) -> "ImageReference":
        """Return a network's reference, with the test images of a run."""
        test = readable(sets.test, data)
        preprocessing = Preprocessing.from_settings(data, side_of(network.plan))
        return cls(network, preprocessing, test.images, data, test.unreadable)

    @cached_property
    def _fast(self) -> Network:
        """The network in channels-last layout, in which it takes about 0.7 of the time on a CPU."""
        return deepcopy(self.network).to(memory_format=torch.channels_last)

    @property
    def names(self) -> Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        """The names of the file's input and output."""
        return Classification().tensor_names(self.network.plan)

    def prepared(self, indices: Iterable[int]) -> Tensor:
        """Return the images at `indices`, read anew and prepared as the manifest says."""
        return prepare(self.preprocessing, [self.images.image(index) for index in indices])

    def logits(self, inputs: Tensor) -> Array:
        """Return PyTorch's logits `[N, classes]`; raises `Disagreement` if they are no numbers."""
        with torch.no_grad():
            logits: Array = self._fast(inputs.to(memory_format=torch.channels_last)).numpy()
        if not np.isfinite(logits).all():
            raise Disagreement("PyTorch's own logits are not finite: recalibrate, or train further")
        return logits

    def sample(self) -> Tensor:
        """Return images from all over the test set, at most `SAMPLE`."""
        count = len(self.images)
        indices = np.linspace(0, count - 1, min(count, SAMPLE)).round().astype(int)
        return self.prepared(indices.tolist())

    def samples(self) -> Mapping[str, tuple[Array, ...]]:
        """Return images from all over the test set for the one part."""
        return {self.network.plan.only.name: (self.sample().numpy(),)}

    def outputs(self, part: str, inputs: Sequence[Array]) -> list[Array]:
        """Return PyTorch's logits of images; raises `Disagreement` if they are no numbers."""
        (images,) = inputs
        return [self.logits(torch.from_numpy(images))]

    def score(self, sessions: Sessions, yardstick: Yardstick, progress: Progress) -> Accuracy:
        """Return the accuracy of the file on all test images, read from their files by the manifest's preprocessing.

        Raises `Disagreement` if the logits of any image differ by more than the tolerance: in fp32 the accuracy can
        then differ by ties only.
        """
        (session,) = sessions.values()
        tally, answers, found = AccuracyTally(), PredictionTally(), []
        self._answers.clear()
        with progress.task("test images", len(self.images)) as task:
            for batch in self.test_set():
                logits = logits_of(session, batch.inputs)
                found.append(yardstick.rows(batch.logits, logits))
                tally.add(batch.labels, batch.logits, logits)
                answers.add(batch.labels, logits)
                task.advance(len(batch.labels))
        self._answers.append(answers)
        rows = np.concatenate(found)
        beyond = yardstick.beyond(rows)
        what = f"logits of {beyond} of {len(rows)} test images, of which {tally.changed} get another class, differ"
        return tally.accuracy(self.unreadable, yardstick.within(rows, what))

    def predictions(self, classes: Sequence[str]) -> FilePredictions | None:
        """Return what the file that was scored last makes of each test image; None if it did not get that far."""
        return self._answers[-1].predictions(self.images, classes) if self._answers else None

    def test_set(self) -> Iterator[TestBatch]:
        """Yield all test images in order, read from their files by the manifest's preprocessing.

        PyTorch sees them as evaluation reads them. Raises `Disagreement` if the two differ.
        """
        places = [range(at, min(at + _TEST_BATCH, len(self.images))) for at in range(0, len(self.images), _TEST_BATCH)]
        if self._known:
            for place, (labels, logits) in zip(places, self._known, strict=True):
                yield TestBatch(self.prepared(place).numpy(), labels, logits)
            return
        found = []
        batches = evaluation_batches(self.images, self.data, _TEST_BATCH)
        for place, (pixels, truth) in zip(places, batches, strict=True):
            evaluated, inputs = rescale(pixels, self.preprocessing.resolution), self.prepared(place).numpy()
            within(
                difference(evaluated.numpy(), inputs), TOLERANCE, "inputs made by the manifest's preprocessing differ"
            )
            found.append((truth.numpy(), self.logits(evaluated)))
            yield TestBatch(inputs, *found[-1])
        self._known.extend(found)


class PictureDeliverable:
    """The deliverable of a classifier of images: preprocessing, labels, and a sample that is a picture."""

    def __init__(self, network: Network, task: Task, data: TaskData) -> None:
        assert isinstance(data, ImageData), f"task {task.name} delivers pictures, and its data are none"
        self._data, self._task = data, task
        self.reference = ImageReference.of(network, data.sets, data.settings)

    def examples(self) -> Examples:
        """Return training images for int8 and fp16."""
        return examples_of(self._data.sets, self._data.settings, self.reference.preprocessing.resolution)

    def manifest(self, facts: Mapping[str, Any]) -> ExportManifest:
        """Return the manifest of some models, with preprocessing and labels."""
        plan = self.reference.network.plan
        interface = part_facts(plan.only, self.reference.names[plan.only.name])
        return ExportManifest(
            **facts,
            inputs=interface.inputs,
            outputs=interface.outputs,
            preprocessing=self.reference.preprocessing,
            labels=self._data.labels,
            data=self._data.sets.split.facts,
            task=self._task.name,
        )

    def sample(self, models: Mapping[str, Callable[[], Sessions]]) -> Sample:
        """Return a computed picture with the outputs of PyTorch and of each model that runs here."""
        sample = make_sample(
            self.reference.preprocessing, lambda inputs: self.reference.logits(torch.from_numpy(inputs))
        )
        outputs = {}
        for name, opened in models.items():
            (session,) = opened().values()
            outputs[name] = logits_of(session, sample.input)
            session.close()
        return replace(sample, outputs=outputs)

    def embed(self, stage: Path, passed: Sequence[Artefact]) -> tuple[Embedded, ...]:
        """Write models that take uint8 pictures of any size; raises `CheckFailed` if they do not agree with others."""
        return embed_models(stage, passed, self.reference.images, self.reference.preprocessing)

    def predictions(self) -> FilePredictions | None:
        """Return what the file that was proved last makes of each test image; None if it did not get that far."""
        return self.reference.predictions(self._data.labels)


def examples_of(sets: ImageSets, data: DataSettings, side: int) -> Examples:
    """Return images of a run for networks of that input side, without augmentation; none are of the test set."""
    calibration = readable(spread(sets.train, _CALIBRATION), data).images
    held_out = readable(spread(sets.search, _HELD_OUT), data).images

    def images() -> Iterable[Array]:
        return (inputs for inputs, _ in _batches(calibration, data, side, _CALIBRATION_BATCH))

    return Examples(images, len(calibration), lambda: _batches(held_out, data, side, _TEST_BATCH))


def spread(images: Images, most: int) -> Images:
    """Return at most so many images, from all over the set and so of all classes."""
    places = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int)
    return images.subset(places.tolist())


def _batches(images: Images, data: DataSettings, side: int, size: int) -> Iterator[tuple[Array, Array]]:
    for pixels, labels in evaluation_batches(images, data, size):
        yield rescale(pixels, side).numpy(), labels.numpy()
