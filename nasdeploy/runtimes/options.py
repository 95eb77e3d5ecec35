"""Options of a device that nasdeploy reads itself."""

from collections.abc import Sequence

from nasdeploy.core.errors import UserError
from nasdeploy.core.registry import suggestion
from nasdeploy.runtimes.runtime import Target


def only(known: Sequence[str], device: Target) -> None:
    """Raise `UserError` if the device has an option that its runtime does not know."""
    for name in device.options:
        if name not in known:
            raise UserError(
                f"device {device.name}: option '{name}' is unknown to {device.runtime}{suggestion(name, known)}"
            )


def wants(name: str, device: Target) -> bool:
    """The option called `name`, off unless it is "true"; raises `UserError` if it is neither that nor "false"."""
    text = device.options.get(name, "false")
    if text not in ("true", "false"):
        raise UserError(f'device {device.name}: option \'{name}\' is "{text}"; write "true" or "false"')
    return text == "true"
