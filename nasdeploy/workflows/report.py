"""What a report shows of runs: everything that a run has got to so far, opened and put together. Torch-free."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from glob import escape
from os import PathLike
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
from pydantic import Field

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError, one_line
from nasdeploy.core.progress import Progress
from nasdeploy.core.resources import resource_names
from nasdeploy.core.settings import Settings
from nasdeploy.core.space import SearchSpace
from nasdeploy.data.decode import UnreadableImage
from nasdeploy.exporting.bundle.pictures import prepare
from nasdeploy.exporting.bundle.verify import runnable
from nasdeploy.exporting.bundle.write import REJECTED_MANIFEST, load_bundle
from nasdeploy.exporting.manifest import MANIFEST, ExportManifest, read_manifest
from nasdeploy.exporting.predictions import FilePredictions, PredictionTally, predictions_file
from nasdeploy.exporting.record import Disagreement, logits_of
from nasdeploy.latency.table import TABLES, LatencyTable
from nasdeploy.recipe import Recipe, load_recipe, recipe_of, space_of
from nasdeploy.report.architecture import DrawnNetwork, drawn_network
from nasdeploy.report.artefacts import PredictionReport, ShownExport, prediction_report, shown_export
from nasdeploy.report.figures import Box
from nasdeploy.report.latency import table_report
from nasdeploy.report.networks import Regime, SubNetworks, front_report, sub_networks
from nasdeploy.report.run import (
    FinetunedNetwork,
    Reproduction,
    RunReport,
    RunSummary,
    StepsTaken,
    commands_of,
    yaml_text,
)
from nasdeploy.report.training import TrainingCurves, training_curves
from nasdeploy.searching.result import SearchResult, load_result
from nasdeploy.spaces import load_settings
from nasdeploy.store.evaluations import kept_evaluations
from nasdeploy.store.files import read_json_lines, require_writable, write_text
from nasdeploy.store.networks import FINETUNED, FinetuneRecord, finetune_record
from nasdeploy.store.records import read_record
from nasdeploy.store.run import Run, StepName
from nasdeploy.tasks import task_of

P = ParamSpec("P")
T = TypeVar("T")
_STEPS: tuple[StepName, ...] = ("train", "profile", "search", "export")
_METRICS = "metrics.jsonl"
_EVALUATED = "evaluate.json"


def report_of(run: Run, recipe: Recipe | None = None, *, progress: bool | Progress = False) -> RunReport:
    """Return everything that a report shows of `run`, as far as it has got; times are in milliseconds.

    `progress` says whether to write to stderr what is done, or is a `Progress` of one's own. `recipe` is the run's, and
    needed only if it holds the space as a Python object. A model whose proof did not keep what it makes of the test
    images, as in exports of earlier versions, is run on them if they are there. Parts that are damaged, or of an
    earlier version, are left out and named in the remarks. Raises `UserError` for a run that has nothing to show yet,
    and for one whose recipe or space this version does not know.
    """
    told = progress if isinstance(progress, Progress) else Progress(quiet=not progress)
    return _RunReading.of(run, recipe or recipe_of(run), told).report()


PAGE = "report.html"


def write_report(
    runs: Run | Sequence[Run], out: str | PathLike[str] | None = None, *, progress: bool | Progress = False
) -> Path:
    """Write one HTML page of a run as far as it has got, or of several beside each other, and return its path.

    `runs` are the run or the runs, and `progress` says whether to write to stderr what is done, or is a `Progress` of
    one's own. Everything is inside of the page, which asks nothing of any other machine. It is `report.html` in the
    first run's directory unless `out` names another file, and appears whole or not at all. Raises `UserError` as
    `report_of` does, and for a place that cannot be written.
    """
    chosen = [runs] if isinstance(runs, Run) else list(runs)
    path = chosen[0].path / PAGE if out is None else Path(out)
    require_writable(path)
    write_page([report_of(run, progress=progress) for run in chosen], path)
    return path


def write_page(reports: Sequence[RunReport], path: Path) -> None:
    """Write the page of some runs, whole or not at all."""
    from nasdeploy.report.page import page_of

    write_text(path, page_of(reports))


@dataclass(frozen=True)
class _RunReading:
    """A run that is read for a report, and what was found to be missing or damaged meanwhile."""

    run: Run
    recipe: Recipe
    space: SearchSpace
    progress: Progress
    remarks: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, run: Run, recipe: Recipe, progress: Progress) -> "_RunReading":
        return cls(run, recipe, space_of(run, recipe), progress)

    def report(self) -> RunReport:
        run, metric = self.run, task_of(self.recipe.task).metric
        result = self._kept(load_result, run.search_result) if run.search_result.exists() else None
        tables = self._tables(result)
        training = self._training()
        finetuned = self._finetuned()
        exports = self._exports(result)
        found = self._sub_networks(tables)
        if not (training or result or tables or exports or found.networks or run.is_finished("train")):
            raise UserError(
                f"{run.path}: nothing to show yet, no epoch is finished; go on with `nd.train(run={run.path})`"
            )
        return RunReport(
            summary=self._summary(),
            metric=metric,
            training=tuple(training),
            finetuned=tuple(map(_finetuned_network, finetuned)),
            sub_networks=found if found.networks or found.regimes else None,
            search=None if result is None else front_report(result),
            tables=tuple(table_report(table, self.space, file) for file, table in tables.values()),
            networks=self._networks(result, {name: table for name, (_, table) in tables.items()}),
            exports=tuple(exports),
            predictions=self._predictions(exports),
            reproduction=self._reproduction(StepsTaken(tuple(tables), result, finetuned, exports)),
            remarks=tuple(self.remarks),
        )

    def _kept(self, read: Callable[P, T], *of: P.args, **options: P.kwargs) -> T | None:
        """Return what can be read; None, with a remark why, for what cannot."""
        try:
            return read(*of, **options)
        except UserError as error:
            self.remarks.append(one_line(error))
            return None

    def _summary(self) -> RunSummary:
        run, recipe, manifest = self.run, self.recipe, self.run.manifest
        given = load_settings(recipe.space) if isinstance(recipe.space, str) else recipe.space
        return RunSummary(
            name=manifest.name,
            path=str(run.path),
            created=manifest.created,
            task=recipe.task,
            space=self.space.name,
            space_kind=given.kind,
            space_digest=self.space.digest,
            networks=self.space.networks,
            classes=manifest.classes,
            outputs=manifest.output_size,
            images={} if manifest.data is None else dict(manifest.data.images),
            start=None if recipe.start is None else recipe.start.model,
            device=recipe.device,
            finished=tuple(step for step in _STEPS if run.is_finished(step)),
        )

    def _training(self) -> list[TrainingCurves]:
        train = self.recipe.train
        phases = [(phase.name, phase.epochs) for phase in train.phases] or [("", train.epochs)]
        folders = sorted(path.parent for path in (self.run.path / "finetune").glob(f"*/{_METRICS}"))
        found = [self._curves("supernet", self.run.metrics, phases)]
        epochs = self.recipe.finetune.epochs
        found += [self._curves(f"fine-tuning of {path.name}", path / _METRICS, [("", epochs)]) for path in folders]
        return [curves for curves in found if curves is not None and curves.epochs]

    def _curves(self, title: str, path: Path, phases: list[tuple[str, int]]) -> TrainingCurves | None:
        metric = task_of(self.recipe.task).metric
        lines = self._kept(read_json_lines, path)
        return None if lines is None else self._kept(training_curves, title, lines, metric, phases)

    def _finetuned(self) -> list[FinetuneRecord]:
        folders = sorted(path.parent for path in (self.run.path / "finetune").glob(f"*/{FINETUNED}"))
        found = [self._kept(finetune_record, self.run, path.name) for path in folders]
        return [record for record in found if record is not None]

    def _tables(self, result: SearchResult | None) -> dict[str, tuple[str, LatencyTable]]:
        """Return file and content of each latency table of the space, by device, those of the search first."""
        space, found = self.space, dict[str, tuple[str, LatencyTable]]()
        for folder in _table_folders(self.run.path):
            for path in sorted(folder.glob(f"*-{escape(space.name)}-{space.digest}-{space.output_size}.json")):
                table = self._kept(LatencyTable.load, path)
                if table is not None and self._kept(_require_whole, table, space):
                    found.setdefault(table.conditions.device.name, (str(path), table))
            if found:
                break
        first = () if result is None else result.devices
        return {name: found[name] for name in dict.fromkeys((*first, *found)) if name in found}

    def _sub_networks(self, tables: Mapping[str, tuple[str, LatencyTable]]) -> SubNetworks:
        path, metric = self.run.path / _EVALUATED, task_of(self.recipe.task).metric
        regimes = (self._kept(_regimes, path, self.run) or ()) if path.exists() else ()
        evaluated = self._kept(kept_evaluations, self.run.search_database, metric) or []
        return sub_networks(evaluated, self.space, {name: table for name, (_, table) in tables.items()}, regimes)

    def _networks(self, result: SearchResult | None, tables: Mapping[str, LatencyTable]) -> tuple[DrawnNetwork, ...]:
        found: list[tuple[str, Arch]] = [("smallest", self.space.smallest())]
        if result is not None:
            chosen = self._kept(self.space.arch, result.winner.arch)
            found += [] if chosen is None else [("chosen", chosen)]
        found.append(("largest", self.space.largest()))
        return tuple(drawn_network(role, arch, self.space, tables) for role, arch in found)

    def _exports(self, result: SearchResult | None) -> list[ShownExport]:
        chosen, metric = None if result is None else result.winner.digest, task_of(self.recipe.task).metric
        inside = {path.parent for name in (MANIFEST, REJECTED_MANIFEST) for path in self.run.exports.rglob(name)}
        # An export may be elsewhere, or be named by another path than the run is.
        named = [Path(str(self.run.facts("export").get("directory")))] if self.run.is_finished("export") else []
        folders = {folder.resolve(): folder for folder in (*named, *inside)}
        paths = [folder / name for folder in sorted(folders.values()) for name in (MANIFEST, REJECTED_MANIFEST)]
        found = [(path, self._kept(read_manifest, path)) for path in paths if path.is_file()]
        shown = [shown_export(each, str(path.parent), chosen, metric) for path, each in found if each is not None]
        return sorted(shown, key=lambda each: not each.chosen)

    def _predictions(self, exports: Sequence[ShownExport]) -> PredictionReport | None:
        """Return what the first model of the first export makes of the test images, as its proof kept it.

        Where nothing is kept, as in runs of earlier versions, the model is run on them now.
        """
        passed = [each for each in exports if not each.rejected and Path(each.directory, MANIFEST).is_file()]
        if not passed or task_of(self.recipe.task).delivery != "pictures":
            return None
        export, made = passed[0], passed[0].artefacts[0]
        labels, file = export.labels, predictions_file(self.run.path, made.sha256)
        if file.is_file():
            found = self._kept(FilePredictions.load, file, len(labels))
        else:
            found = self._kept(_predicted, Path(export.directory), made.file, self.progress)
            if found is not None:
                # Whoever has the run in use keeps it from being written: it is made anew then.
                with suppress(UserError), self.run.lock():
                    found.save(file)
        return None if found is None else prediction_report(found, export.digest, made.file, labels)

    def _reproduction(self, steps: StepsTaken) -> Reproduction:
        run, manifest = self.run, self.run.manifest
        shipped = manifest.name in resource_names("recipes") and load_recipe(manifest.name) == self.recipe
        file = manifest.name if shipped else f"{manifest.name}.yaml"
        imported = run.facts("train").get("imported") if run.is_finished("train") else None
        return Reproduction(
            commands=commands_of(file, manifest.name, imported if isinstance(imported, dict) else None, steps),
            recipe_file=file,
            is_shipped=shipped,
            recipe=yaml_text(manifest.recipe),
            seed=manifest.seed,
            versions=manifest.versions,
            data_digest=None if manifest.data is None else manifest.data.digest,
        )


def _predicted(bundle: Path, file: str, progress: Progress) -> FilePredictions:
    """Return what a model of a bundle makes of its run's test images; raises `UserError` if either is not there."""
    manifest = load_bundle(bundle)
    if not isinstance(manifest, ExportManifest):
        raise UserError(f"{bundle}: no classifier of images, so that there is no confusion matrix")
    artefact = next(made for made in manifest.artefacts if made.file.name == file)
    model = runnable(bundle, artefact)

    from nasdeploy.workflows.verify import images_of

    images, steps = images_of(manifest, bundle), manifest.preprocessing.model_dump()
    tally, read = PredictionTally(), list[int]()
    with model.opened() as session, progress.task("report: test images", len(images)) as task:
        for place in range(len(images)):
            with suppress(UnreadableImage):
                picture, label = images[place]
                try:
                    tally.add(np.array([label]), logits_of(session, prepare(picture, steps)))
                except Disagreement as error:
                    raise UserError(f"{bundle / file}: {error}") from None
                read.append(place)
            task.advance()
    return tally.predictions(images.subset(read), manifest.labels)


def _require_whole(table: LatencyTable, space: SearchSpace) -> bool:
    """Return True; raises `UserError` for a table that is not of a space, or lacks some of its blocks."""
    table.require_space(space)
    table.range(space)
    return True


def _table_folders(run: Path) -> list[Path]:
    """Return where tables may lie: in this directory, or in that from which the run was made."""
    here = Path.cwd()
    return [TABLES, *(parent / TABLES for parent in run.resolve().parents if parent != here)]


def _finetuned_network(record: FinetuneRecord) -> FinetunedNetwork:
    before, after = record.before, record.after
    return FinetunedNetwork(
        digest=record.digest,
        epochs=record.epochs,
        before=before.value,
        before_error=before.error,
        after=after.value,
        after_error=after.error,
        samples=after.samples,
        kept=record.kept,
    )


class _EvaluatedRun(Settings, extra="ignore"):
    """What is read of one run in an `evaluate.json`."""

    run: str
    space: str
    regimes: tuple[Box | None, ...]


class _EvaluatedRuns(Settings, extra="ignore"):
    """What is read of an `evaluate.json`."""

    edges_macs_m: tuple[float, ...] = Field(min_length=2)
    runs: tuple[_EvaluatedRun, ...]


def _regimes(path: Path, run: Run) -> tuple[Regime, ...]:
    """Return the regimes of the run in its `evaluate.json`; the run is the first of those that were compared."""
    content = read_record(_EvaluatedRuns, path, "evaluate again")
    edges = [1e6 * edge for edge in content.edges_macs_m]
    own = next((one for one in content.runs if one.space == run.manifest.space), None)
    boxes = () if own is None else own.regimes
    return tuple(Regime(low, high, box) for low, high, box in zip(edges, edges[1:], boxes, strict=False))
