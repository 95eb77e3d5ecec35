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
    from nasdeploy.resources import resource_names
    from nasdeploy.runtimes.device import load_device

    found = [_facts(load_device(name)) for name in named or resource_names("profiles")]
    emit({"devices": found}, as_json, lambda: _text(found))


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
    """What has to be done on this machine before the device can be used; of a board only what reaches it."""
    from importlib.util import find_spec

    from nasdeploy.runtimes import described_runtime

    runtime = described_runtime(device)
    if not device.is_local:
        return [] if find_spec("asyncssh") else ["run: pip install asyncssh"]
    missing, obstacle = runtime.missing(), runtime.obstacle()
    return [*([f"run: {missing}"] if missing else ()), *([obstacle] if obstacle else ())]


def _text(found: list[dict[str, Any]]) -> str:
    from nasdeploy.cli.listing import listing

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
