"""The page of a report: one HTML file with everything inside, which asks nothing of any other machine.

plotly's script is the bundle of its Cartesian charts, because a browser spends most of its time reading all of plotly's
4.8 MB; it is packed with gzip, because it still has 1.5 MB. What may run in the page are two scripts, which its
Content-Security-Policy names by their sums (https://www.w3.org/TR/CSP3/). All texts of a run are escaped: Jinja does so
in HTML, `nasdeploy.report.chart.plain` in what plotly draws.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from gzip import compress
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdeploy.core.escaping import in_utf8
from nasdeploy.report import page_facts
from nasdeploy.report.artefacts import ShownExport
from nasdeploy.report.chart import Chart, number
from nasdeploy.report.latency import TableReport
from nasdeploy.report.network_charts import DrawnRow, stage_rows, stages_chart, table_chart
from nasdeploy.report.page_facts import Fact, Pairs
from nasdeploy.report.run import RunReport
from nasdeploy.report.score_charts import confusion_chart, training_charts
from nasdeploy.report.search_charts import front_chart, fronts_chart, latency_chart, macs_chart, regimes_chart


@dataclass(frozen=True)
class TableView:
    """A latency table of the page."""

    charts: tuple[Chart, ...]
    pairs: Pairs
    slowest: tuple[tuple[str, str, str], ...]
    """The slowest blocks: key, milliseconds, what disturbed them."""


@dataclass(frozen=True)
class ExportView:
    """A directory of exported files."""

    export: ShownExport
    files: list[tuple[str, ...]]
    """A row for each file, below `nasdeploy.report.page_facts.FILE_COLUMNS`."""
    problems: list[str]
    remarks: list[str]


@dataclass(frozen=True)
class WrongPicture:
    """A test image with a wrong class, in words."""

    name: str
    picture: str
    """A PNG as a `data:` URI; empty where the image could not be read."""
    truth: str
    predicted: str
    text: str
    """The two classes with their probabilities, which is the image's text alternative."""


@dataclass(frozen=True)
class RunView:
    """One run of the page."""

    name: str
    """The run's name, or its path where several runs of that name are shown."""
    report: RunReport
    facts: list[Fact]
    front: Chart | None
    search: Pairs
    device: str | None
    """The device whose latencies the drawing of networks shows; None without a latency table."""
    stages: list[DrawnRow]
    exports: list[ExportView]
    confusion: Chart | None
    wrong: list[WrongPicture]
    sub_networks: list[Chart]
    tables: list[TableView]
    training: list[Chart]
    made_with: Pairs

    @property
    def shown(self) -> frozenset[str]:
        """The anchors of the sections that this run has something for."""
        parts = {
            "front": self.front,
            "files": self.exports,
            "test": self.confusion,
            "networks": self.sub_networks,
            "latency": self.tables,
            "training": self.training,
        }
        return frozenset(anchor for anchor, _ in SECTIONS if parts.get(anchor, True))


def run_view(run: RunReport, name: str) -> RunView:
    """Return what the page shows of a run, under the name `name`."""
    metric, search = run.metric, run.search
    device = next((one for network in run.networks for one in network.predicted_ms), None)
    return RunView(
        name=name,
        report=run,
        facts=page_facts.facts(run),
        front=None if search is None else front_chart(search, metric, run.sub_networks),
        search=[] if search is None else page_facts.search_pairs(search, metric),
        device=device,
        stages=stage_rows(run.networks, device),
        exports=[_export(one) for one in run.exports],
        confusion=None if run.predictions is None else confusion_chart(run.predictions),
        wrong=_wrong(run),
        sub_networks=_sub_networks(run),
        tables=[_table(table, run) for table in run.tables],
        training=[chart for curves in run.training if curves.epochs for chart in training_charts(curves, metric)],
        made_with=page_facts.made_with(run),
    )


def _sub_networks(run: RunReport) -> list[Chart]:
    found, metric = run.sub_networks, run.metric
    if found is None:
        return []
    chosen = None if run.search is None else run.search.winner.digest
    devices = dict.fromkeys(device for one in found.networks for device in one.predicted_ms)
    charts = [
        macs_chart(found, metric, chosen) if found.networks else None,
        *(latency_chart(found, metric, device, chosen) for device in devices),
        regimes_chart(found, metric),
    ]
    return [chart for chart in charts if chart is not None]


def _export(export: ShownExport) -> ExportView:
    files, problems = page_facts.file_rows(export), page_facts.problems(export)
    return ExportView(export, files, problems, page_facts.remarks(export))


def _table(table: TableReport, run: RunReport) -> TableView:
    charts: Sequence[Chart | None] = (stages_chart(run.networks, table.device), table_chart(table))
    return TableView(
        charts=tuple(chart for chart in charts if chart is not None),
        pairs=page_facts.table_pairs(table),
        slowest=tuple((block.key, number(block.ms), block.noise or "-") for block in table.slowest),
    )


def _wrong(run: RunReport) -> list[WrongPicture]:
    found = run.predictions
    if found is None:
        return []
    return [
        WrongPicture(
            name=image.name,
            picture=image.picture,
            truth=found.labels[image.truth],
            predicted=found.labels[image.predicted],
            text=f"taken for {found.labels[image.predicted]} ({100 * image.probability:.1f} %), "
            f"is {found.labels[image.truth]} ({100 * image.probability_of_truth:.1f} %)",
        )
        for image in found.wrong
    ]


if TYPE_CHECKING:
    from jinja2 import Environment

SECTIONS = (
    ("summary", "Summary"),
    ("front", "Pareto front"),
    ("architecture", "Architecture"),
    ("files", "Exported files"),
    ("test", "Test images"),
    ("networks", "Sub-networks"),
    ("latency", "Latency table"),
    ("training", "Training"),
    ("again", "How to make it again"),
)
"""The sections of the page: their anchors and headings."""
_HTML = Path(__file__).parent / "html"


def page_of(reports: Sequence[RunReport]) -> str:
    """Return the HTML page of one run, or of several beside each other."""
    from markupsafe import Markup

    drawing, library = (_HTML / "page.js").read_text(encoding="utf-8"), _plotly()
    runs = [run_view(report, name) for report, name in zip(reports, _names(reports), strict=True)]
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            title=f"nasdeploy: {runs[0].name}" if len(runs) == 1 else f"nasdeploy: {len(runs)} runs",
            runs=runs,
            sections=SECTIONS,
            shown=frozenset[str]().union(*(run.shown for run in runs)),
            file_columns=page_facts.FILE_COLUMNS,
            together=_together(runs),
            policy=_policy(drawing, library.sum),
            style=Markup((_HTML / "page.css").read_text(encoding="utf-8")),
            script=Markup(drawing),
            packed=library.packed,
            version=version("nasdeploy"),
        )
    )


def _names(reports: Sequence[RunReport]) -> list[str]:
    """Return the names of runs; the paths of those that share one."""
    count = Counter(report.summary.name for report in reports)
    return [one.summary.name if count[one.summary.name] == 1 else one.summary.path for one in reports]


def _together(runs: Sequence[RunView]) -> list[Chart]:
    searches = {run.name: (run.report.search, run.report.metric) for run in runs if run.report.search is not None}
    chart = fronts_chart({name: (search, metric) for name, (search, metric) in searches.items() if search is not None})
    return [] if chart is None else [chart]


def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(_HTML),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_encodable,
    )
    made.filters["moment"] = page_facts.moment
    return made


def _encodable(value: Any) -> Any:
    """Return a text that UTF-8 can hold, whatever names of files hold; the page's own markup as it is."""
    return in_utf8(value) if type(value) is str else value


@dataclass(frozen=True)
class _Library:
    """A script to be put into a page."""

    packed: str
    """The script, gzipped, in base64."""
    sum: str
    """The SHA-256 of the script, in base64."""


@cache
def _plotly() -> _Library:
    script = _unwrapped((_HTML / "plotly-cartesian.min.js").read_text(encoding="utf-8")).encode("utf-8")
    # The time in the header would make two pages of one run differ.
    return _Library(b64encode(compress(script, 6, mtime=0)).decode("ascii"), _sum(script))


_BODY, _END = '\n"use strict";var Plotly=', "\nwindow.Plotly = Plotly;\n"


def _unwrapped(script: str) -> str:
    """Return plotly's script outside of the function that it comes in for loaders of modules; a page has none.

    A browser reads the text of a function twice, which is a quarter of the time until something is drawn. A script that
    comes in another form stays as it is.
    """
    licence, body = script.find("*/\n") + len("*/\n"), script.find(_BODY)
    end = script.rfind(_END)
    return script if min(licence, body, end) < 0 else script[:licence] + script[body:end] + _END


def _sum(script: bytes) -> str:
    return b64encode(sha256(script).digest()).decode("ascii")


def _policy(drawing: str, library: str) -> str:
    """Return what the page may load and run: its two scripts, styles and pictures inside of it, and nothing else."""
    return (
        f"default-src 'none'; script-src 'sha256-{_sum(drawing.encode())}' 'sha256-{library}'; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
