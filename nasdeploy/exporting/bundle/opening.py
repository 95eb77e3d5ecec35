"""Models of a bundle on this machine: which of them run here, and opening them. Torch-free, if the format is."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nasdeploy.core.errors import UserError
from nasdeploy.core.registry import lookup
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.exporting.formats.format import Format
from nasdeploy.exporting.jobs import device_for
from nasdeploy.exporting.manifest import Artefact, ExportManifest
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Session


@dataclass(frozen=True)
class Runnable:
    """A model of a bundle that runs on this machine."""

    path: Path
    artefact: Artefact
    form: Format
    device: Device

    @contextmanager
    def opened(self) -> Iterator[Session]:
        """A session, closed afterwards; raises `UserError` if the runtime refuses the file."""
        session = self.form.open(self.path, self.device)
        try:
            yield session
        finally:
            session.close()


def runnable(folder: Path, artefact: Artefact, device: Device | None = None) -> Runnable:
    """A model on `device`, by default the one that it was exported for; raises `UserError` if it cannot run there."""
    form = lookup("format", FORMATS, artefact.format)
    reason = form.not_run(artefact.capabilities)
    if reason is not None:
        raise UserError(f"{folder / artefact.file.name}: cannot run here ({reason})")
    target = artefact.device if device is None else device_for(form, device, artefact.precision)
    runtime_of(target)
    return Runnable(folder / artefact.file.name, artefact, form, target)


def first_runnable(folder: Path, manifest: ExportManifest, device: Device | None = None) -> Runnable:
    """The bundle's first model that runs here, of those for `device` if that is given.

    Raises `UserError` with what keeps the first from running if none does.
    """
    reasons = []
    for artefact in manifest.artefacts:
        if device is not None and FORMATS[artefact.format].runtime(device) != device.runtime:
            reasons.append(f"{folder / artefact.file.name}: not a file for device {device.name}")
            continue
        try:
            return runnable(folder, artefact, device)
        except UserError as error:
            reasons.append(str(error))
    raise UserError(reasons[0])
