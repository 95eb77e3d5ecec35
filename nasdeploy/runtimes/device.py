"""Device files: where networks run, in which runtime, and how (`profiles/NAME.yaml`)."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from nasdeploy.errors import UserError
from nasdeploy.registry import suggestion
from nasdeploy.resources import resource, resource_names
from nasdeploy.settings import Settings, load_yaml, parse


class Device(Settings):
    """One way of running networks; what a latency table is measured for."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.]*(-[a-z0-9_.]+)*$")
    runtime: str
    host: Literal["local"] = "local"
    precision: Literal["fp32"] = "fp32"
    batch: int = Field(default=1, ge=1, le=65536)
    threads: int = Field(default=1, ge=1, le=1024)
    options: dict[str, str] = Field(default_factory=dict)
    """Passed on to the runtime: for ONNX Runtime its session configuration entries."""


def load_device(name_or_path: str | Path) -> Device:
    """The device of a file, or one that comes with nasdeploy; raises `UserError` if there is none or it is wrong."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = _shipped(str(name_or_path))
    return parse(Device, load_yaml(path), str(path))


def _shipped(name: str) -> Path:
    path = resource("profiles", name)
    if path is None:
        raise UserError(f"unknown device '{name}'{suggestion(name, resource_names('profiles'))} (or give a .yaml file)")
    return path
