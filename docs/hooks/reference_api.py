"""The pages on the Python API: what `import nasdeploy as nd` offers, and what its functions take and give.

They name what is described; mkdocstrings reads the descriptions from the source, without importing it.
"""

from collections.abc import Mapping, Sequence

import nasdeploy as nd

_FUNCTIONS = """# Python API

`import nasdeploy as nd` takes no time and imports no PyTorch: each name is imported when it is first used.
[Python](../using/python.md) shows how the functions follow each other.

::: nasdeploy.api
    options:
      show_root_heading: false
      show_root_toc_entry: false
"""

_PAGES: Mapping[str, tuple[str, str, Sequence[str]]] = {
    "runs": (
        "Runs and recipes",
        "What functions work on, and how they are told what to do.",
        ("nasdeploy.store.run", "nasdeploy.recipe", "nasdeploy.core.progress.Progress"),
    ),
    "data": (
        "Data sets",
        "What a data set of one's own is, which functions take as `data`.",
        ("nasdeploy.data.settings.LabelledDataset",),
    ),
    "spaces": (
        "Search spaces",
        "What networks a space holds, and what each is made of. Codes are arrays of integers, one row a network.",
        ("nasdeploy.core.arch", "nasdeploy.core.space", "nasdeploy.core.plan"),
    ),
    "tables": ("Latency tables", "What `nd.profile` gives. Times are in seconds.", ("nasdeploy.latency.table",)),
    "results": (
        "Results of searches",
        "What `nd.search` and `nd.search_devices` give.",
        (
            "nasdeploy.searching.result",
            "nasdeploy.searching.result.NetworkRecord",
            "nasdeploy.searching.result.LatencyRecord",
            "nasdeploy.searching.result.DifferenceRecord",
            "nasdeploy.searching.result.BudgetRecord",
            "nasdeploy.searching.result.Fidelity",
            "nasdeploy.workflows.device_searches.DeviceSearches",
            "nasdeploy.workflows.device_searches.DeviceSearch",
        ),
    ),
    "exports": (
        "Exports and comparisons",
        "What `nd.export` (in `Export`), `nd.finetune` and `nd.compare_runtimes` give.",
        (
            "nasdeploy.exporting.manifest",
            "nasdeploy.exporting.manifest.BundleManifest",
            "nasdeploy.workflows.finetune.Finetuned",
            "nasdeploy.store.networks.FinetuneRecord",
            "nasdeploy.workflows.runtimes.RuntimeComparison",
            "nasdeploy.workflows.runtimes.RuntimeResult",
        ),
    ),
    "reports": (
        "Reports",
        "What a report shows of a run, as objects, and its page.",
        (
            "nasdeploy.workflows.report",
            "nasdeploy.report.run.RunReport",
            "nasdeploy.report.run.RunSummary",
            "nasdeploy.report.training.TrainingCurves",
            "nasdeploy.report.networks.SubNetworks",
            "nasdeploy.report.networks.FrontReport",
            "nasdeploy.report.latency.TableReport",
            "nasdeploy.report.architecture.DrawnNetwork",
            "nasdeploy.report.artefacts.ShownExport",
            "nasdeploy.report.artefacts.PredictionReport",
        ),
    ),
    "errors": (
        "Errors",
        "Each is one line that says what is wrong, where, and what to do.",
        ("nasdeploy.core.errors",),
    ),
}
"""The pages on classes by name: title, beginning, and modules (for what `nd` offers of them) or single classes."""


def api_pages() -> dict[str, str]:
    """Return the pages by file."""
    others = {
        f"reference/api/{name}.md": "\n".join([f"# {title}", "", begins, "", *_classes(places)])
        for name, (title, begins, places) in _PAGES.items()
    }
    return {"reference/api.md": _FUNCTIONS, **others}


def _classes(places: Sequence[str]) -> list[str]:
    paths = [path for place in places for path in ([f"{place}.{name}" for name in nd._HOMES.get(place, ())] or [place])]
    return [line for path in paths for line in (f"::: {path}", "")]
