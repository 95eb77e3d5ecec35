"""`nasdeploy devices`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasdeploy.cli.output import JsonFlag, emit

if TYPE_CHECKING:
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

    found = [_facts(load_device(name)) for name in named or resource_names("profiles")]
    machine = {"cores": bound_cpus(), "cpu_quota": cpu_quota()}
    emit({"devices": found, "machine": machine}, as_json, lambda: f"{_text(found)}\n\n{_machine(machine)}")


def _facts(device: "Device") -> dict[str, Any]:
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
    from importlib.util import find_spec

    from nasdeploy.runtimes import described_runtime

    runtime = described_runtime(device)
    if not device.is_local:
        return [] if find_spec("asyncssh") else ["run: pip install asyncssh"]
    missing, obstacle = runtime.missing(), runtime.obstacle()
    return [*([f"run: {missing}"] if missing else ()), *([obstacle] if obstacle else ())]


def _machine(facts: dict[str, Any]) -> str:
    cores, quota = facts["cores"], facts["cpu_quota"]
    limit = "no quota" if quota is None else f"a quota that leaves the time of {quota:g} of them"
    return f"this machine: {cores} core{'' if cores == 1 else 's'} for this process, {limit}"


def _text(found: list[dict[str, Any]]) -> str:
    from nasdeploy.cli.output import listing

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
