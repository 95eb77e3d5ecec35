"""Damaged bundles, and whether everything that is given one refuses it in a line."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile

import numpy as np

from nasdeploy.core.errors import CheckFailed, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.bundle import predict as program
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds
from nasdeploy.runtimes.device import Device
from nasdeploy.workflows.models import bench
from nasdeploy.workflows.verify import verify

QUIET = Progress(quiet=True)
QUICK = MeasurementProtocol(networks=Rounds(group=1, visits=1), warmup=1, kept=2, shortest_group_s=0, retries=0)
DEVICE = Device(name="cpu", runtime="onnxruntime")


def flip(path: Path, other: Path, rng: np.random.Generator) -> None:
    """One bit."""
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def truncate(path: Path, other: Path, rng: np.random.Generator) -> None:
    """Some bytes of the end, or all."""
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(len(content))])


def overwrite(path: Path, other: Path, rng: np.random.Generator) -> None:
    """A block of zeros, as a bad disk leaves it."""
    content = bytearray(path.read_bytes())
    start = int(rng.integers(len(content)))
    end = min(len(content), start + 512)
    content[start:end] = bytes(end - start)
    path.write_bytes(content)


def swap(path: Path, other: Path, rng: np.random.Generator) -> None:
    """The file of the same name of another bundle."""
    copyfile(other / path.name, path)


DAMAGE: dict[str, Callable[[Path, Path, np.random.Generator], None]] = {
    "flip": flip,
    "truncate": truncate,
    "overwrite": overwrite,
    "swap": swap,
}


def damage(bundle: Path, other: Path, number: int) -> str:
    """Damage a bundle in a way that follows from `number`; what was done to which file.

    Nothing is done that leaves a file as it was. The manifest is swapped most often of all.
    """
    rng = np.random.default_rng(number)
    kind = list(DAMAGE)[number % len(DAMAGE)]
    names = sorted(path.name for path in bundle.glob("[!.]*"))
    name = "manifest.json" if kind == "swap" and number % 3 else str(rng.choice(names))
    before = (bundle / name).read_bytes()
    DAMAGE[kind](bundle / name, other, rng)
    while (bundle / name).read_bytes() == before:  # A block that was zero already; predict.py, the same in all bundles.
        kind = "flip"
        flip(bundle / name, other, rng)
    return f"{kind} {name}"


def refusals(bundle: Path, images: Path) -> dict[str, str | None]:
    """By command what is wrong with the way in which it refused the bundle; None if it was refused in one line."""
    return {
        "verify": _raises(lambda: verify(bundle, QUIET, protocol=QUICK), CheckFailed),
        "bench": _raises(lambda: bench([str(bundle)], DEVICE, QUIET, protocol=QUICK), UserError),
        "predict.py": _exits(bundle, images),
    }


def _raises(call: Callable[[], object], kind: type[Exception]) -> str | None:
    try:
        call()
    except kind as error:
        return None if str(error) and "\n" not in str(error) else f"not one line: {error}"
    # Anything else is a crash.
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "not refused"


def _exits(bundle: Path, images: Path) -> str | None:
    """The program as it was written: one that is damaged itself can promise nothing."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = program.main([str(images)], bundle)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    if code != 2 or out.getvalue():
        return f"exit code {code}, said {out.getvalue()[:80]!r}"
    return None if err.getvalue().count("\n") == 1 else f"not one line: {err.getvalue()!r}"
