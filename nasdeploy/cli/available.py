"""`nasdeploy devices` and `nasdeploy formats`: what there is, and what this machine lacks for it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasdeploy.cli.output import JsonFlag, emit, listing

if TYPE_CHECKING:
    from nasdeploy.exporting.formats.format import Format
    from nasdeploy.runtimes.device import Device


def devices(
    named: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME|FILE]...", help="Devices [default: those of nasdeploy].")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List devices, with what this machine lacks to use each and how to get it."""
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
            "; ".join(facts["lacking"]) or "nothing",
        )
        for facts in found
    ]
    return listing((*headings, "where", "this machine lacks"), rows)


def formats(as_json: JsonFlag = False) -> None:
    """List export formats, with what this machine lacks to make each and how to get it."""
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
