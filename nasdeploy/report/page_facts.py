"""What the page tells in words: the answer of a run in one glance, and tables of figures with what they are of."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nasdeploy.core.score import Metric
from nasdeploy.report.artefacts import ProofFigures, ProvenLatency, ShownArtefact, ShownExport
from nasdeploy.report.chart import number
from nasdeploy.report.latency import TableReport
from nasdeploy.report.networks import BudgetBound, FrontReport
from nasdeploy.report.run import RunReport


@dataclass(frozen=True)
class Fact:
    """One answer."""

    term: str
    value: str
    detail: str
    is_bad: bool = False
    """Whether it is an answer that nobody wants."""


def facts(run: RunReport) -> list[Fact]:
    """Return the answers that a run has, as far as it has got."""
    found = next((one for one in run.exports if one.chosen or run.search is None), None)
    return [*_chosen(run, found), *_score(run, found), *_latency(run, found), *_proof(found)]


def _chosen(run: RunReport, found: ShownExport | None) -> Iterator[Fact]:
    drawn, digest = run.chosen, found.digest if found is not None else None
    if drawn is not None:
        size = f"{1e-6 * drawn.macs:.4g} M MACs, {1e-6 * drawn.params:.4g} M parameters"
        yield Fact("chosen network", " or ".join(drawn.names) or drawn.digest, f"{size}{_weights(found)}")
    elif found is not None and digest is not None:
        size = f"{1e-6 * found.macs:.4g} M MACs, {1e-6 * found.params:.4g} M parameters"
        yield Fact("exported network", digest, f"{size}{_weights(found)}")


def _weights(found: ShownExport | None) -> str:
    return "" if found is None else f"; {found.input_text}; weights: {found.weights}"


def _score(run: RunReport, found: ShownExport | None) -> Iterator[Fact]:
    metric, proof = run.metric, next((one.proof for one in _artefacts(found) if one.proof.value is not None), None)
    if proof is not None and proof.value is not None:
        low_high = "" if proof.interval is None else f"95 %: {' to '.join(map(metric.number, proof.interval))}; "
        yield Fact(
            metric.name, metric.text(proof.value), f"{low_high}the file on {proof.samples} test {metric.samples}"
        )
    elif run.search is not None:
        winner = run.search.winner
        told = f"+- {metric.number(winner.error)}, on {run.search.samples} held-out training {metric.samples}"
        yield Fact(metric.name, metric.text(winner.value), told)
    else:
        yield from _validated(run)


def _validated(run: RunReport) -> Iterator[Fact]:
    """Yield the last score of the largest network that was validated in training."""
    for curves in run.training[:1]:
        for name, curve in (
            list(curves.scores.items())[-1:]
            if "largest" not in curves.scores
            else [("largest", curves.scores["largest"])]
        ):
            values = [value for value in curve.values if value is not None]
            if values:
                told = f"{name} network, after epoch {curves.epochs[-1]} of {curves.planned}"
                yield Fact(run.metric.name, run.metric.text(values[-1]), told)


def _latency(run: RunReport, found: ShownExport | None) -> Iterator[Fact]:
    for one in _artefacts(found):
        if one.proof.latency is not None:
            yield _exported_latency(one, one.proof.latency, found)
            return
    if run.search is None:
        return
    search, winner = run.search, run.search.winner
    for device, measured in winner.measured_ms.items():
        yield Fact(f"latency on {device}", f"{number(measured.median)} ms", f"{_bounds(search)}measured median")
    for device, predicted in winner.predicted_ms.items():
        if device not in winner.measured_ms:
            yield Fact(f"latency on {device}", f"{number(predicted)} ms", f"{_bounds(search)}predicted, not measured")


def _exported_latency(one: ShownArtefact, latency: ProvenLatency, found: ShownExport | None) -> Fact:
    budget = None if found is None else found.budget.get("latency_ms")
    usual = latency.median_ms if latency.usual_ms is None else latency.usual_ms
    met = budget is None or usual <= budget
    told = [
        *([] if budget is None else [f"budget {number(budget)} ms {'met' if met else 'not met'}"]),
        "measured median",
        *([] if latency.usual_ms is None else [f"as quiet as when profiled {number(usual)} ms"]),
        *(["too noisy to be trusted"] if latency.noisy else []),
    ]
    return Fact(f"latency on {one.device}", f"{number(latency.median_ms)} ms", "; ".join(told), is_bad=not met)


def _bounds(search: FrontReport) -> str:
    if search.axis_bound is None or search.axis_bound.high is None:
        return ""
    return f"budget {number(search.axis_bound.high)} {search.axis_bound.unit}; "


def _proof(found: ShownExport | None) -> Iterator[Fact]:
    made = list(_artefacts(found))
    if not made:
        return
    names = ", ".join(f"{one.format} {one.precision}" for one in made)
    problems = [problem for one in made for problem in one.proof.problems]
    waiting = [one for one in made if one.not_run is not None]
    if problems:
        yield Fact("proof", "not passed", f"{names}: {problems[0]}", is_bad=True)
    elif len(waiting) == len(made):
        yield Fact("proof", "not run here", f"{names}: {waiting[0].not_run}", is_bad=True)
    else:
        yield Fact("proof", "passed", f"{names}{_agreement(made)}")


def _agreement(made: list[ShownArtefact]) -> str:
    proof = next((one.proof for one in made if one.proof.difference is not None), None)
    if proof is None:
        return ""
    allowed = "" if proof.allowed is None else f", allowed {proof.allowed:.0e}"
    return f": outputs within {proof.difference:.1e} of PyTorch's{allowed}"


def _artefacts(found: ShownExport | None) -> tuple[ShownArtefact, ...]:
    return () if found is None else found.artefacts


Pairs = list[tuple[str, str]]
FILE_COLUMNS = ("file", "MB", "device", "outputs differ by", "score", "latency in ms", "start", "proof")


def moment(text: str) -> str:
    """Return a time in ISO 8601 to the minute, as people read it; any other text as it is."""
    return f"{text[:10]} {text[11:16]} UTC" if text[10:11] == "T" and text.endswith("+00:00") else text


def search_pairs(search: FrontReport, metric: Metric) -> Pairs:
    """Return what a search was asked and how it went."""
    fidelity = [
        (f"predicted order on {device}", f"Kendall's tau {one.tau:.2f} on {one.networks} measured networks")
        for device, one in search.latency_fidelity.items()
        if one.tau is not None
    ]
    return [
        ("budget", "; ".join(map(_bound, search.bounds)) or "none"),
        ("strategy", f"{search.strategy}, ranked by {_criterion(search.criterion, metric)}"),
        ("scored", f"{search.evaluated} sub-networks on {search.samples} held-out {metric.samples}"),
        ("finished", f"{moment(search.finished)} (search {search.id})"),
        *fidelity,
    ]


def _criterion(criterion: str, metric: Metric) -> str:
    return metric.name if criterion == "metric" else "loss and divergence" if criterion == "both" else criterion


def _bound(bound: BudgetBound) -> str:
    if bound.low is None:
        return f"{bound.title} at most {number(bound.high)} {bound.unit}"
    if bound.high is None:
        return f"{bound.title} at least {number(bound.low)} {bound.unit}"
    return f"{bound.title} {number(bound.low)} to {number(bound.high)} {bound.unit}"


def table_pairs(table: TableReport) -> Pairs:
    """Return what a latency table is of, its error, and what disturbed it."""
    noise = ", ".join(f"{reason} {count}" for reason, count in table.noise.items() if count)
    conditions = f"{table.runtime} {table.runtime_version}, {table.precision}, batch {table.batch}"
    return [
        ("device", f"{table.device}: {table.processor}; {conditions}, threads {table.threads}"),
        ("measured", f"{table.entries} blocks, {len(table.networks)} whole networks, {moment(table.created)}"),
        ("range of the space", f"{number(table.low_ms)} to {number(table.high_ms)} ms, as predicted"),
        *_errors(table),
        ("disturbed timings", noise or "none"),
        *_drift(table),
        ("file", table.file),
    ]


def _errors(table: TableReport) -> Iterator[tuple[str, str]]:
    error, quiet = table.held_out, table.held_out_undisturbed
    if error is not None:
        most = f"95 % of them below {100 * error.p95:.1f} %, Kendall's tau {error.kendall:.2f}"
        yield "error of predictions", f"mean {100 * error.mean_absolute:.1f} % on {error.n} held-out networks, {most}"
    if quiet is not None:
        yield "the same, undisturbed", f"mean {100 * quiet.mean_absolute:.1f} %"


def _drift(table: TableReport) -> Iterator[tuple[str, str]]:
    if table.drift is not None:
        times = f"a reference graph took {table.drift[0]:.2f} to {table.drift[1]:.2f} times as long as usual"
        divided = f"; timings are divided by that to the power {table.steadied:g}" if table.steadied else ""
        yield "drift", times + divided


def made_with(run: RunReport) -> Pairs:
    """Return the seed, the data and the versions that a run was made with."""
    how, summary = run.reproduction, run.summary
    images = ", ".join(f"{use} {count}" for use, count in summary.images.items() if count)
    return [
        ("seed", str(how.seed)),
        *([("images", images)] if images else []),
        *([] if how.data_digest is None else [("digest of the images", how.data_digest)]),
        ("space", f"{summary.space}, digest {summary.space_digest}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in how.versions.items())),
    ]


def file_rows(export: ShownExport) -> list[tuple[str, ...]]:
    """Return a row for each exported file, with the figures of its proof."""
    return [
        (
            f"{one.file} ({one.format}, {one.precision})",
            f"{1e-6 * one.bytes:.3g}",
            f"{one.device}, {one.runtime}",
            _agreement_cell(one.proof),
            _score_cell(one.proof, export.metric),
            _latency_cell(one.proof),
            _start_cell(one.proof),
            _verdict(one),
        )
        for one in export.artefacts
    ]


def _agreement_cell(proof: ProofFigures) -> str:
    if proof.difference is None:
        return "-"
    allowed = "" if proof.allowed is None else f", allowed {proof.allowed:.0e}"
    return f"{proof.difference:.1e}{allowed}; batches {', '.join(map(str, proof.batches))}"


def _score_cell(proof: ProofFigures, metric: Metric) -> str:
    if proof.value is None:
        return "-"
    interval = "" if proof.interval is None else f" (95 %: {' to '.join(map(metric.number, proof.interval))})"
    beside = "" if proof.value_pytorch is None else f"; PyTorch {metric.text(proof.value_pytorch)}"
    changed = "" if proof.changed is None else f"; other class for {proof.changed}"
    return f"{metric.text(proof.value)}{interval} on {proof.samples} {metric.samples}{beside}{changed}"


def _latency_cell(proof: ProofFigures) -> str:
    found = proof.latency
    if found is None:
        return "-"
    more = [
        f"p10 {number(found.p10_ms)}, p90 {number(found.p90_ms)}",
        *([] if found.predicted_ms is None else [f"predicted {number(found.predicted_ms)}"]),
        *([] if found.after_gap_ms is None else [f"after a pause of {found.gap_ms:g} ms {number(found.after_gap_ms)}"]),
        *(["noisy"] if found.noisy else []),
    ]
    return f"{number(found.median_ms)} ({'; '.join(more)})"


def _start_cell(proof: ProofFigures) -> str:
    parts = [
        *([] if proof.load_s is None else [f"{proof.load_s:.2g} s"]),
        *([] if proof.peak_bytes is None else [f"{1e-6 * proof.peak_bytes:.0f} MB"]),
    ]
    return ", ".join(parts) or "-"


def _verdict(one: ShownArtefact) -> str:
    if one.proof.problems:
        return "not passed"
    return "passed" if one.not_run is None else f"not run here: {one.not_run}"


def problems(export: ShownExport) -> list[str]:
    """Return why files were rejected."""
    return list(_of_files((one.file, one.proof.problems) for one in export.artefacts))


def remarks(export: ShownExport) -> list[str]:
    """Return what is to be known about the measurements of files."""
    timed = ((one.file, one.proof.latency) for one in export.artefacts)
    return list(_of_files((file, latency.remarks) for file, latency in timed if latency is not None))


def _of_files(found: Iterable[tuple[str, tuple[str, ...]]]) -> Iterator[str]:
    for file, lines in found:
        yield from (f"{file}: {line}" for line in lines)
