"""`nasdeploy formats`."""

from typing import TYPE_CHECKING, Any

from nasdeploy.cli.output import JsonFlag, emit

if TYPE_CHECKING:
    from nasdeploy.exporting.formats.format import Format


def formats(as_json: JsonFlag = False) -> None:
    """List export formats, with what this machine lacks to make each and how to get it."""
    from nasdeploy.exporting.formats import FORMATS

    found = [_facts(name, form) for name, form in FORMATS.items()]
    emit({"formats": found}, as_json, lambda: _text(found))


def _facts(name: str, form: "Format") -> dict[str, Any]:
    missing, obstacle = form.missing(), form.obstacle()
    lacking = [*([f"run: {missing}"] if missing else ()), *([obstacle] if obstacle else ())]
    # Asked of what can be made only: whatever is lacking to make it is lacking to run it.
    cannot_run = None if lacking else form.not_run(())
    return {
        "format": name,
        "files": list(form.suffixes),
        "precisions": list(form.precisions),
        "ready": not lacking,
        "lacking": lacking,
        "not_run": cannot_run,
        "ahead_of_time": form.ahead_of_time,
    }


def _text(found: list[dict[str, Any]]) -> str:
    from nasdeploy.cli.output import listing

    headings = ("format", "files", "precisions", "this machine lacks", "runs here")
    rows = [
        (
            facts["format"],
            " ".join(f"model{suffix}" for suffix in facts["files"]),
            " ".join(facts["precisions"]),
            "; ".join(facts["lacking"]) or "nothing",
            _runs(facts),
        )
        for facts in found
    ]
    return listing(headings, rows)


def _runs(facts: dict[str, Any]) -> str:
    if facts["lacking"]:
        return "no"
    if not facts["not_run"]:
        return "yes"
    return "no, but built with --compute-capability" if facts["ahead_of_time"] else f"no: {facts['not_run']}"
