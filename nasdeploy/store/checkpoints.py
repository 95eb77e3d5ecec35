"""The checkpoints of a run as files: their names, whether they are whole, and which weights a finished run has.

Torch-free; `nasdeploy.training.checkpoint` reads and writes what is in them.
"""

import re
import shlex
import struct
import zlib
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from pydantic import Field

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import Settings
from nasdeploy.store.records import parse_record
from nasdeploy.store.run import Run

BEST = "best.pt"
_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?\.pt")


class WeightsFacts(Settings):
    """A statement of which weights of a run something was made from."""

    epoch: int = Field(ge=0)
    """Epochs that they were trained for."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """The sum of the checkpoint that holds them."""

    def __str__(self) -> str:
        return f"epoch {self.epoch}, {self.sha256[:12]}"


@dataclass(frozen=True)
class Weights:
    """A checkpoint, and which weights it holds."""

    path: Path
    facts: WeightsFacts


class LostWeights(UserError):
    """The checkpoint that a finished training ended with is gone, damaged or replaced by another."""


def checkpoint_name(epoch: int, step: int = 0) -> str:
    """Return the name of the file with the state after so many epochs, and steps of the next one."""
    return f"epoch-{epoch:06d}{f'-step-{step:06d}' if step else ''}.pt"


def checkpoint_files(directory: Path) -> list[Path]:
    """Return the checkpoints in a directory, oldest first; the best epoch's second name is none of them."""
    return sorted((path for path in directory.glob("epoch-*.pt") if _NAME.fullmatch(path.name)), key=position_of)


def position_of(path: Path) -> tuple[int, int]:
    """Return finished epochs, and finished steps of the next one, by a checkpoint's name."""
    match = _NAME.fullmatch(path.name)
    assert match is not None, path
    return int(match[1]), int(match[2] or 0)


def is_whole(path: Path) -> bool:
    """Return whether a file is there and the checksums inside are right: torch does not look at them."""
    try:
        with ZipFile(path) as archive:
            return archive.testzip() is None
    except (BadZipFile, OSError, EOFError, ValueError, LookupError, RuntimeError, struct.error, zlib.error):
        return False


def weights_in(path: Path) -> Weights:
    """Return the weights in a checkpoint; raises `UserError` if it cannot be read."""
    try:
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    return Weights(path, WeightsFacts(epoch=position_of(path)[0], sha256=digest))


def trained_weights(run: Run) -> Weights:
    """Return the weights that the training of a run ended with.

    Raises `LostWeights`, with the command that trains its last epoch again, if their checkpoint is not what it was, and
    `UserError` if training is not finished.
    """
    epoch, files = run.facts("train").get("epoch"), checkpoint_files(run.checkpoints)
    if not files or (epoch is not None and position_of(files[-1]) != (epoch, 0)):
        lost = run.checkpoints / ("epoch-E.pt" if epoch is None else checkpoint_name(epoch))
        raise LostWeights(f"{lost}: the checkpoint that training ended with is gone; {_remedy(run)}")
    if not is_as_trained(run, files[-1]):
        raise LostWeights(f"{files[-1]}: damaged, or not the weights that training ended with; {_remedy(run)}")
    return weights_in(files[-1])


def is_as_trained(run: Run, path: Path) -> bool:
    """Return whether a checkpoint of a run is whole and, if it is the one that training ended with, what it was
    then."""
    ended = run.manifest.finished.get("train", {}).get("weights")
    if ended is None:
        return is_whole(path)
    known = parse_record(WeightsFacts, ended, run.path / "manifest.json: finished.train.weights", "restore it")
    if position_of(path) != (known.epoch, 0):
        return is_whole(path)
    return weights_in(path).facts == known


def _remedy(run: Run) -> str:
    place = shlex.quote(str(run.path))
    whole = (is_as_trained(run, path) for path in checkpoint_files(run.checkpoints))
    if is_whole(run.checkpoints / BEST) or any(whole):
        return f"`nd.train(run={place})` trains that epoch again, from the last whole one"
    return f"restore it, or train anew with `nd.train(run={place}, restart=True)`"
