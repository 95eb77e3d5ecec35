"""MNN's file, made from the ONNX model.

A damaged file may end the process that runs it, so that one is tried in a process of its own. That is told the file,
prints its inputs and outputs as JSON and then runs it.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from nasdeploy.core.errors import ConversionRefused, UserError, one_line
from nasdeploy.exporting.formats.format import Interchange, Source, lacking, mismatch, run_apart, why_ended
from nasdeploy.exporting.manifest import TensorFacts
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.mnn import Mnn
from nasdeploy.runtimes.mnn_file import read_mnn
from nasdeploy.runtimes.runtime import LocalTarget, Precision

_APART = f"from {__name__} import main; main()"


class MnnFormat(Interchange):
    """One file, for any batch. In fp16 the weights are; what is computed in is the processor's to say."""

    suffixes = (".mnn",)
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    package = "MNN"

    def runtime(self, device: Device) -> str:
        """Return MNN."""
        return "mnn"

    def recipe(self, device: Device) -> str:
        """Return that of its ONNX model: it is not quantised itself."""
        return "onnxruntime"

    def missing(self) -> str | None:
        """Return the command that installs it, or None."""
        return lacking("MNN", "mnn", "3.6")

    def write(self, source: Source, path: Path) -> None:
        """Convert; raises `UserError` if MNN refuses the network."""
        from nasdeploy.convert.mnn import to_mnn

        try:
            # It halves the weights itself: the operators of an ONNX model in fp16 would be casts.
            path.write_bytes(to_mnn(source.onnx("fp32"), half=source.precision == "fp16"))
        except ConversionRefused as refusal:
            raise UserError(f"format mnn: {refusal}; use another format") from None

    def inspect(self, path: Path, inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts]) -> list[str]:
        """Return what is wrong with its sizes, whether it runs, and inputs and outputs that are not as they should
        be."""
        try:
            facts = read_mnn(path.read_bytes())
        except ValueError as error:
            return [f"MNN: {error}"]
        given = [_text(each.name, each.dtype, each.shape[1:]) for each in facts.inputs]
        found = [
            *mismatch("input", given, [_text(each.name, each.dtype, each.shape[1:]) for each in inputs]),
            *mismatch("output", list(facts.outputs), [each.name for each in outputs]),
        ]
        return found or self._tried(path, outputs)

    def _tried(self, path: Path, outputs: Sequence[TensorFacts]) -> list[str]:
        """Return what is wrong when the file runs for two samples."""
        done = run_apart("-c", _APART, path)
        if done.returncode:
            return [why_ended(done, "MNN: ")]
        shapes = [str(shape) for shape in json.loads(done.stdout.splitlines()[-1])]
        return mismatch("output", shapes, [str([_BATCH, *each.shape[1:]]) for each in outputs])


_BATCH = 2


def _text(name: str, dtype: str, sizes: Sequence[int | str]) -> str:
    # It has no integers of 64 bits.
    kind = "int32" if dtype == "int64" else dtype
    return f"{name} {kind} [{', '.join(map(str, ('batch', *sizes)))}]"


def main() -> None:
    """Run a file, in a process of its own, and print the shapes of what it gives; the last line of its errors says what
    went wrong."""
    import numpy as np

    try:
        session = Mnn().open(Path(sys.argv[1]), LocalTarget("here", "mnn", batch=_BATCH))
        dtypes = {each.name: each.dtype for each in read_mnn(Path(sys.argv[1]).read_bytes()).inputs}
        found = session.run({name: np.zeros(shape, dtypes[name]) for name, shape in session.inputs.items()})
    except UserError as error:
        sys.exit(str(error))
    # Whatever the runtime raises.
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {one_line(error)}")
    print(json.dumps([list(each.shape) for each in found]))
