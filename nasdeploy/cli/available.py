"""`nasdeploy devices`, `formats` and `doctor`: what there is, and what this machine lacks for it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasdeploy.cli import completion
from nasdeploy.cli.output import JsonFlag, QuietFlag, emit, listing
from nasdeploy.core.errors import CheckFailed

_NOTHING = "nothing"

if TYPE_CHECKING:
    from nasdeploy.exporting.formats.format import Format
    from nasdeploy.runtimes.device import Device
    from nasdeploy.workflows.doctor import Diagnosis


def devices(
    named: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME|FILE]...", help="Devices [default: those of nasdeploy].", autocompletion=completion.devices
        ),
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """List devices, with what this machine lacks for each.

    How to get what is missing is told, too.
    """
    from nasdeploy.core.cpus import bound_cpus, cpu_quota
    from nasdeploy.core.resources import resource_names
    from nasdeploy.runtimes.device import load_device

    found = [_device(load_device(name)) for name in named or resource_names("profiles")]
    machine = {"cores": bound_cpus(), "cpu_quota": cpu_quota()}
    emit({"devices": found, "machine": machine}, as_json, lambda: f"{_device_text(found)}\n\n{_machine(machine)}")


def _device(device: "Device") -> dict[str, Any]:
    lacking = _lacking(device)
    return {
        "device": device.name,
        "runtime": device.runtime,
        "precision": device.precision,
        "batch": device.batch,
        "threads": device.threads,
        "hosts": list(device.hosts or (device.host,)),
        "ready": not lacking,
        "lacking": lacking,
    }


def _lacking(device: "Device") -> list[str]:
    """Say what has to be done on this machine before the device can be used; of a board only what reaches it."""
    from nasdeploy.runtimes import described_runtime
    from nasdeploy.runtimes.device import missing_to_reach

    runtime = described_runtime(device)
    if not device.is_local:
        command = missing_to_reach(device)
        return [f"run: {command}"] if command else []
    missing, obstacle = runtime.missing(), runtime.obstacle()
    return [*([f"run: {missing}"] if missing else ()), *([obstacle] if obstacle else ())]


def _machine(facts: dict[str, Any]) -> str:
    cores, quota = facts["cores"], facts["cpu_quota"]
    limit = "no quota" if quota is None else f"a quota that leaves the time of {quota:g} of them"
    return f"this machine: {cores} core{'' if cores == 1 else 's'} for this process, {limit}"


def _device_text(found: list[dict[str, Any]]) -> str:
    headings = ("device", "runtime", "precision", "batch", "threads")
    rows = [
        (
            *(str(facts[name]) for name in headings),
            "here" if facts["hosts"] == ["local"] else ", ".join(facts["hosts"]),
            "; ".join(facts["lacking"]) or _NOTHING,
        )
        for facts in found
    ]
    named = (*headings, "where", "this machine lacks")
    return listing(named, rows, optional=("threads", "batch"), below=_NOTHING)


def formats(as_json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """List export formats, with what this machine lacks for each.

    How to get what is missing is told, too.
    """
    from nasdeploy.exporting.formats import FORMATS

    found = [_format(name, form) for name, form in FORMATS.items()]
    emit({"formats": found}, as_json, lambda: _format_text(found))


def _format(name: str, form: "Format") -> dict[str, Any]:
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


def _format_text(found: list[dict[str, Any]]) -> str:
    headings = ("format", "files", "precisions", "runs here", "this machine lacks")
    rows = [
        (
            facts["format"],
            " ".join(f"model{suffix}" for suffix in facts["files"]),
            " ".join(facts["precisions"]),
            _runs(facts),
            "; ".join(facts["lacking"]) or _NOTHING,
        )
        for facts in found
    ]
    return listing(headings, rows, below=_NOTHING)


def _runs(facts: dict[str, Any]) -> str:
    if facts["lacking"]:
        return "no"
    if not facts["not_run"]:
        return "yes"
    return "no, but built with --compute-capability" if facts["ahead_of_time"] else f"no: {facts['not_run']}"


def doctor(as_json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Check this machine and what is installed.

    Each line is in order (ok), or a note that may be acted on, or a problem that nasdeploy cannot work with: exit code
    4 then.
    """
    from nasdeploy.workflows.doctor import diagnose

    found = diagnose()
    emit(found.to_json(), as_json, lambda: _diagnosis_text(found, quiet))
    if found.problems:
        first, *others = found.problems
        more = f" (and {len(others)} more)" if others else ""
        raise CheckFailed(f"{first.check}: {first.found}{more}; {first.advice}")


def _diagnosis_text(found: "Diagnosis", quiet: bool) -> str:
    """Return a line for each finding; `quiet` leaves out what is in order."""
    shown = [each for each in found.findings if not quiet or each.verdict != "ok"]
    rows = [(each.verdict, each.check, "; ".join(filter(None, (each.found, each.advice)))) for each in shown]
    notes, problems = (sum(each.verdict == kind for each in found.findings) for kind in ("note", "problem"))
    told = f"{len(found.findings)} checks: {_counted(notes, 'note')}, {_counted(problems, 'problem')}"
    return "\n".join([*([listing(("verdict", "what", "found"), rows)] if rows else ()), told])


def _counted(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
