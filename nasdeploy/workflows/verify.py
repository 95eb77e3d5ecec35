"""A bundle tried again, on the machine where it is to work: sums, form, sample, accuracy, latency."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from nasdeploy.core.errors import CheckFailed, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.score import Metric
from nasdeploy.data.datasets import open_data
from nasdeploy.data.decode import UnreadableImage
from nasdeploy.data.facts import facts_of
from nasdeploy.data.folder import list_part
from nasdeploy.data.images import FileImages, Images
from nasdeploy.data.inventory import Identities
from nasdeploy.data.split import set_digest
from nasdeploy.exporting.bundle.verify import (
    Runnable,
    Sample,
    TensorSample,
    VerifiedModel,
    check_embedded,
    check_inputs,
    check_outputs,
    check_score,
    check_tensors,
    count_correct,
    runnable,
)
from nasdeploy.exporting.bundle.write import load_bundle
from nasdeploy.exporting.deliverables import SessionNetwork
from nasdeploy.exporting.manifest import MANIFEST, BundleManifest, Embedded, ExportManifest
from nasdeploy.exporting.record import Disagreement, ModelLatency
from nasdeploy.latency.measure import Opener, measure
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, Timing
from nasdeploy.recipe import parse_recipe
from nasdeploy.runtimes.device import Device
from nasdeploy.store.networks import OwnWeights
from nasdeploy.store.records import ComparedBy
from nasdeploy.tasks import task_of
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.file_scores import ProvenScore

_DEFAULT = MeasurementProtocol(sustained_s=1.0)
_TEST_BATCH = 32


@dataclass(frozen=True)
class Verification:
    """What came out for each model of a bundle."""

    found: tuple[VerifiedModel, ...]
    images: str
    """Where the test images are from, or why there are none."""
    metric: Metric
    """What models are scored by."""
    own: OwnWeights | None = None
    """The weights that the network has of its own, as its export says; None if it has the supernet's."""

    def to_json(self) -> list[dict[str, Any]]:
        """Return the figures of each model as plain values."""
        return [each.to_json(self.metric) for each in self.found]

    @property
    def problems(self) -> tuple[str, ...]:
        """The problems of all models, one line each."""
        return tuple(f"{each.model}: {problem}" for each in self.found for problem in each.problems)


def verify(
    bundle: Path,
    progress: Progress,
    *,
    data: str | None = None,
    device: Device | None = None,
    protocol: MeasurementProtocol = _DEFAULT,
) -> Verification:
    """Try every model of a bundle that runs here, or on `device`.

    Test images are those in the folder `data`, else those of the run's recipe if they are here. Raises `CheckFailed` if
    the bundle is damaged, and `UserError` if none of its models can run here or `data` does not fit.
    """
    if not bundle.is_dir():
        raise UserError(f"{bundle}: no such bundle; give the directory that `nd.export()` wrote")
    try:
        manifest = load_bundle(bundle)
    except UserError as error:
        raise CheckFailed(str(error)) from None
    if not isinstance(manifest, ExportManifest):
        return _verify_parts(bundle, manifest, progress, device, protocol)
    try:
        sample = Sample.load(bundle)
        check_inputs(manifest, sample)
    except (UserError, Disagreement) as error:
        raise CheckFailed(str(error)) from None
    models = _runnable(bundle, manifest, device)
    with progress.stage("verify: opening the test images"):
        images, source = _images(manifest, bundle, data)
    progress.say(f"verify: {source}")
    outcomes = [
        _tried(model, manifest, sample, images, progress, protocol) if isinstance(model, Runnable) else model
        for model in models
    ]
    plain = {model.path.name: model for model in models if isinstance(model, Runnable)}
    embedded = [_embedded(plain[each.model], each, sample) for each in manifest.embedded if each.model in plain]
    metric = task_of(manifest.task_name).metric
    return Verification((*outcomes, *embedded), source, metric, manifest.origin.own)


def _verify_parts(
    bundle: Path, manifest: BundleManifest, progress: Progress, device: Device | None, protocol: MeasurementProtocol
) -> Verification:
    """Try a bundle of any task: outputs on the sample, the score on the test set of its recipe, and latency."""
    try:
        sample = TensorSample.load(bundle)
    except UserError as error:
        raise CheckFailed(str(error)) from None
    models = _runnable(bundle, manifest, device)
    recipe = parse_recipe(manifest.origin.recipe, f"{bundle / MANIFEST}: origin.recipe")
    task = task_of(manifest.task_name)
    try:
        data, source = task.open(recipe.data, recipe.seed), f"the test set of {manifest.origin.run}"
    except UserError as error:
        data, source = None, f"the score is not tried ({error})"
    progress.say(f"verify: {source}")
    plan = recipe.load_space(data.outputs).plan(recipe.load_space(data.outputs).arch(manifest.arch)) if data else None

    def tried(model: Runnable) -> VerifiedModel:
        found = VerifiedModel(model.path.name)
        problems = _inspected(model, manifest)
        if problems:
            return replace(found, problems=problems)
        try:
            with model.opened_parts() as sessions:
                found = replace(found, difference=check_tensors(model, sessions, sample))
                if data is not None and plan is not None:
                    score = task.score(SessionNetwork(sessions, plan), data.test(_TEST_BATCH))
                    found = _scored(found, score.metric, score.value, score.samples, model.artefact.proof.tested)
                    check_score(score.value, score.samples, model.artefact.proof.tested)
        except (Disagreement, UserError) as error:
            return replace(found, problems=(str(error),))
        return _timed_parts(found, model, manifest, protocol)

    outcomes = tuple(tried(model) if isinstance(model, Runnable) else model for model in models)
    return Verification(outcomes, source, task.metric, manifest.origin.own)


def _inspected(model: Runnable, manifest: BundleManifest) -> tuple[str, ...]:
    """What is wrong with the form of a model's files, one line each."""
    facts = {part.name: part for part in manifest.interfaces}
    return tuple(
        line
        for part, path in model.files.items()
        for line in model.form.inspect(path, facts[part].inputs, facts[part].outputs)
    )


def _scored(
    found: VerifiedModel, metric: Metric, value: float, samples: int, exported: ProvenScore | None
) -> VerifiedModel:
    """The model's outcome with its score, beside that when it was exported."""
    then = exported.value if exported else None
    return replace(found, metric=metric, samples=samples, score=value, score_exported=then)


def _timed_parts(
    found: VerifiedModel, model: Runnable, manifest: BundleManifest, protocol: MeasurementProtocol
) -> VerifiedModel:
    """The model's outcome with the latency of a sample: over parts, runs x the part's median."""
    runs = {part.name: part.runs for part in manifest.interfaces}
    openers = {part: _opener_of(model, path) for part, path in model.files.items()}
    (timings,) = measure(openers, replace(protocol.networks, group=len(openers)), protocol)
    exported = model.artefact.proof.latency
    return replace(
        found,
        median_ms=sum(1e3 * runs[part] * timing.median for part, timing in timings.items()),
        median_ms_exported=exported.median_ms if exported else None,
    )


def _opener_of(model: Runnable, path: Path) -> Opener:
    return lambda: model.form.open(path, model.device)


def _runnable(bundle: Path, manifest: BundleManifest, device: Device | None) -> list[Runnable | VerifiedModel]:
    """Return each model, or why it cannot run here; raises `UserError` if none can."""
    models: list[Runnable | VerifiedModel] = []
    for artefact in manifest.artefacts:
        try:
            models.append(runnable(bundle, artefact, device))
        except UserError as error:
            models.append(VerifiedModel(artefact.file.name, not_run=str(error)))
    if not any(isinstance(model, Runnable) for model in models):
        raise UserError(str(next(model.not_run for model in models if isinstance(model, VerifiedModel))))
    return models


def _tried(
    model: Runnable,
    manifest: ExportManifest,
    sample: Sample,
    images: Images | None,
    progress: Progress,
    protocol: MeasurementProtocol,
) -> VerifiedModel:
    """The gate's stages, up to the first that the model fails."""
    proof = model.artefact.proof
    found = VerifiedModel(model.path.name)
    problems = _inspected(model, manifest)
    if problems:
        return replace(found, problems=problems)
    try:
        with model.opened() as session:
            with progress.stage(f"{found.model}, outputs on the sample"):
                found = replace(found, difference=check_outputs(model, session, sample))
            if images is not None:
                with progress.task(f"{found.model}, test images", len(images)) as task:
                    correct, count = count_correct(session, manifest, _counted(images, task.advance))
                found = _scored(found, Classification.metric, correct / count, count, proof.accuracy)
                found = replace(found, unreadable=len(images) - count + images.unreadable)
                check_score(correct / count, count, proof.accuracy)
    except (Disagreement, UserError) as error:
        return replace(found, problems=(str(error),))
    return _timed(found, model, proof.latency, protocol, progress)


def _embedded(plain: Runnable, embedded: Embedded, sample: Sample) -> VerifiedModel:
    """What a model that preprocesses by itself makes of the sample, where `plain`, which does not, runs."""
    found = VerifiedModel(embedded.file.name)
    model = replace(plain, path=plain.path.with_name(embedded.file.name))
    try:
        with model.opened() as session:
            return replace(found, difference=check_embedded(session, embedded, sample))
    except (Disagreement, UserError) as error:
        return replace(found, problems=(str(error),))


def _counted(images: Images, advance: Callable[[], None]) -> Iterator[tuple[Image, int]]:
    """The images that can be read, with their labels."""
    for index in range(len(images)):
        try:
            yield images[index]
        except UnreadableImage:
            continue
        finally:
            advance()


def _timed(
    found: VerifiedModel,
    model: Runnable,
    exported: ModelLatency | None,
    protocol: MeasurementProtocol,
    progress: Progress,
) -> VerifiedModel:
    """Return the outcome with latency back to back and after gaps as at the export, and with throughput."""
    timing = _timing(model, protocol.networks, protocol, progress, "latency")
    found = replace(
        found,
        median_ms=1e3 * timing.median,
        median_ms_exported=exported.median_ms if exported else None,
        images_per_s=model.device.batch * timing.throughput.per_s if timing.throughput else None,
    )
    then = exported.after_gaps if exported else None
    if then is None:
        return found
    rounds = Rounds(1, ceil(protocol.networks.visits / 2), then.gap_ms / 1e3)
    after = _timing(model, rounds, replace(protocol, sustained_s=0.0), progress, "latency after gaps")
    return replace(found, gap_ms=then.gap_ms, after_gaps_ms=1e3 * after.median, after_gaps_ms_exported=then.median_ms)


def _timing(model: Runnable, rounds: Rounds, protocol: MeasurementProtocol, progress: Progress, what: str) -> Timing:
    name = model.path.name
    openers = {name: lambda: model.form.open(model.path, model.device)}
    with progress.task(f"{name}, {what}, visits", rounds.visits) as task:
        (timings,) = measure(openers, rounds, protocol, on_visit=task.advance)
    return timings[name]


def _images(manifest: ExportManifest, bundle: Path, folder: str | None) -> tuple[Images | None, str]:
    """Test images and where they are from; without `folder`, None and the reason if the run's are not here."""
    if folder is not None:
        classes = _classes(Path(folder), manifest)
        images = images_of(manifest, bundle, folder) if classes is None else classes
        return images, f"the test images in {folder}"
    try:
        return images_of(manifest, bundle), f"the test images of {manifest.origin.run}"
    except UserError as error:
        return None, f"accuracy is not tried without `data` ({error})"


def images_of(manifest: ExportManifest, bundle: Path, folder: str | None = None) -> Images:
    """Return the test images of the run's recipe, where they were or in `folder`.

    Raises `UserError` if they are not there, or not those that the models were tested on.
    """
    recipe = parse_recipe(manifest.origin.recipe, f"{bundle / MANIFEST}: origin.recipe")
    # Images that cannot be read are left out and counted.
    changes = {"on_unreadable": "skip"} | ({} if folder is None else {"path": folder})
    data = recipe.images.model_copy(update=changes)
    sets = open_data(data, recipe.seed)
    if sets.classes != manifest.labels:
        raise UserError(f"{data.path}: its classes are not those of the model; give images of {_some(manifest)}")
    _require_same(manifest, str(data.path or data.kind), sets.split.test_digest(_compared_by(manifest)), len(sets.test))
    return sets.test


def _compared_by(manifest: ExportManifest) -> ComparedBy:
    return manifest.data.compared_by if manifest.data else "contents"


def _require_same(manifest: ExportManifest, place: str, digest: str, count: int) -> None:
    """Raise `UserError` unless images in `place` are those that the bundle's accuracy is of, if it says which."""
    if manifest.data is not None and digest != manifest.data.test_digest:
        raise UserError(
            f"{place}: its {count} test images, or their classes, are not the {manifest.data.images['test']} that the "
            "models were tested on when they were exported; give those"
        )


def _classes(folder: Path, manifest: ExportManifest) -> Images | None:
    """Test images in `folder`/test/CLASS or `folder`/CLASS; None if it is another kind of data, or also has others."""
    if (folder / "train").exists():
        return None
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one that holds CLASS/*.jpg, or test/CLASS/*.jpg")
    root = folder / "test" if (folder / "test").is_dir() else folder
    part = list_part(root)
    found = [(path, label) for label, name in enumerate(manifest.labels) for path in part.images.get(name, ())]
    if not found:
        raise UserError(f"{root}: holds no images in folders called {_some(manifest)}; name them after the classes")
    files = [path for path, _ in found]
    images = FileImages(files, [label for _, label in found], manifest.preprocessing.decoding)
    identities = Identities.of(facts_of(root, files), np.arange(len(files)))
    _require_same(manifest, str(folder), set_digest(images.labels, identities, _compared_by(manifest)), len(images))
    return images


def _some(manifest: ExportManifest) -> str:
    shown = ", ".join(manifest.labels[:3])
    return shown + (f" and {len(manifest.labels) - 3} more" if len(manifest.labels) > 3 else "")
