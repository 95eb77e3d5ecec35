"""The weights of a run as files: its checkpoints, whether they are whole, and which weights a finished training left.

These are a file of safetensors by themselves, or, in runs that earlier versions finished, the last checkpoint.
Torch-free; `nasdeploy.training.checkpoint` and `nasdeploy.supernet.weights` read and write what is in them.
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
from nasdeploy.core.settings import S, Settings
from nasdeploy.store.records import parse_record
from nasdeploy.store.run import Facts, Run

BEST = "best.pt"
_SUPERNET = "supernet.safetensors"
_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?\.pt")


class WeightsFacts(Settings):
    """A statement of which weights of a run something was made from."""

    epoch: int = Field(ge=0)
    """Epochs that they were trained for."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """The sum of the file that training left them in, which tells them from all others: they keep it in a file of
    another form."""

    def __str__(self) -> str:
        return f"epoch {self.epoch}, {self.sha256[:12]}"


class SupernetFile(Settings):
    """A statement of the file that a finished run keeps its supernet's weights in."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


@dataclass(frozen=True)
class Weights:
    """A file of weights, and which weights it holds."""

    path: Path
    facts: WeightsFacts


class LostWeights(UserError):
    """The weights that a finished training ended with are gone, damaged or replaced by others."""


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
    return Weights(path, WeightsFacts(epoch=position_of(path)[0], sha256=sum_of(path)))


def sum_of(path: Path) -> str:
    """Return the SHA-256 of a file; raises `UserError` if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None


def supernet_file(run: Run) -> Path:
    """Return where a run keeps the weights that its training ended with, which may not be there."""
    return run.path / _SUPERNET


def supernet_facts(file: Path, epoch: int, known: WeightsFacts | None = None) -> Facts:
    """Return what the manifest of a run says, under `train`, of a file of weights that it keeps.

    They are told from others by that file's own sum, unless they are `known` by another.
    """
    kept = SupernetFile(sha256=sum_of(file))
    found = known or WeightsFacts(epoch=epoch, sha256=kept.sha256)
    return {"weights": found.model_dump(), "supernet": kept.model_dump()}


def trained_weights(run: Run) -> Weights:
    """Return the weights that the training of a run ended with.

    Raises `LostWeights`, with the command that trains its last epoch again, if their file is not what it was, and
    `UserError` if training is not finished.
    """
    facts = run.facts("train")
    if "supernet" in facts:
        return _handed_on(run, facts)
    epoch, files = facts.get("epoch"), checkpoint_files(run.checkpoints)
    if not files or (epoch is not None and position_of(files[-1]) != (epoch, 0)):
        lost = run.checkpoints / ("epoch-E.pt" if epoch is None else checkpoint_name(epoch))
        raise LostWeights(f"{lost}: the checkpoint that training ended with is gone; {_remedy(run)}")
    if not is_as_trained(run, files[-1]):
        raise LostWeights(f"{files[-1]}: damaged, or not the weights that training ended with; {_remedy(run)}")
    return weights_in(files[-1])


def _handed_on(run: Run, facts: Facts) -> Weights:
    path = supernet_file(run)
    if not path.is_file():
        raise LostWeights(f"{path}: the weights that training ended with are gone; {_remedy(run)}")
    if sum_of(path) != _stated(run, SupernetFile, facts, "supernet").sha256:
        raise LostWeights(f"{path}: damaged, or not the weights that training ended with; {_remedy(run)}")
    return Weights(path, _stated(run, WeightsFacts, facts, "weights"))


def _stated(run: Run, model: type[S], facts: Facts, name: str) -> S:
    """Return what the manifest of a run says of its weights; raises `UserError` if that is damaged."""
    source = run.path / f"manifest.json: finished.train.{name}"
    return parse_record(model, stated if isinstance(stated := facts.get(name), dict) else {}, source, "restore it")


def is_as_trained(run: Run, path: Path) -> bool:
    """Return whether a checkpoint of a run is whole and, if the manifest knows what it was when training ended with it,
    still that."""
    facts = run.manifest.finished.get("train", {})
    if "supernet" in facts or facts.get("weights") is None:
        return is_whole(path)
    known = _stated(run, WeightsFacts, facts, "weights")
    if position_of(path) != (known.epoch, 0):
        return is_whole(path)
    return weights_in(path).facts == known


def _remedy(run: Run) -> str:
    place = shlex.quote(str(run.path))
    whole = (is_as_trained(run, path) for path in checkpoint_files(run.checkpoints))
    if is_whole(run.checkpoints / BEST) or any(whole):
        if "supernet" in run.facts("train"):
            return f"`nd.train(run={place})` makes them again, from the last whole checkpoint"
        return f"`nd.train(run={place})` trains that epoch again, from the last whole one"
    return f"restore it, or train anew with `nd.train(run={place}, restart=True)`"
