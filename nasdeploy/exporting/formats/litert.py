"""LiteRT's `.tflite`: one file, for a fixed number of images in a call."""

from collections.abc import Sequence
from pathlib import Path

from nasdeploy.exporting.formats.format import Interchange, Source, lacking, mismatch, run_apart, why_ended
from nasdeploy.exporting.manifest import TensorFacts
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Precision
from nasdeploy.runtimes.tflite_file import DamagedFile, TfliteTensor, read_tflite

_APART = "nasdeploy.runtimes.litert"


class LiteRtFormat(Interchange):
    """Float32 in and out, NCHW at the architecture's resolution. In fp16 the weights are, and the file lets processors
    compute in it that can."""

    suffixes = (".tflite",)
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    fixes_batch = True
    package = "ai-edge-litert"

    def runtime(self, device: Device) -> str:
        """Return LiteRT."""
        return "litert"

    def recipe(self, device: Device) -> str:
        """Return its own."""
        return "litert"

    def largest_batch(self, device: Device) -> int:
        """Return the batch of the file."""
        return device.batch

    def missing(self) -> str | None:
        """Return the command that installs it, or None."""
        return lacking("ai_edge_litert", "ai-edge-litert", "2.3")

    def write(self, source: Source, path: Path) -> None:
        """Write the network for the device's batch; raises `UserError` for one that LiteRT has no operators for."""
        from nasdeploy.convert.litert import network_tflite

        if source.precision == "int8":
            assert source.tflite_int8 is not None, "what is exported in int8 can be quantised"
            path.write_bytes(source.tflite_int8(source.device.batch))
        else:
            half = source.precision == "fp16"
            path.write_bytes(network_tflite(source.network, source.device.batch, half=half))

    def inspect(self, path: Path, inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts]) -> list[str]:
        """Return what is wrong inside the file; inputs and outputs that are not as they should be; or, from a process
        of its own, why it does not run."""
        try:
            found = read_tflite(path.read_bytes())
        except DamagedFile as error:
            return [f"LiteRT: {error}"]
        wrong = [*_differing("input", found.inputs, inputs), *_differing("output", found.outputs, outputs)]
        return wrong or _run_apart(path)


def _differing(kind: str, found: Sequence[TfliteTensor], expected: Sequence[TensorFacts]) -> list[str]:
    shown = [_text(each.name, each.dtype, each.shape) for each in found]
    return mismatch(kind, shown, [_text(each.name, each.dtype, each.shape) for each in expected])


def _text(name: str, dtype: str, shape: Sequence[int | str]) -> str:
    """Return a tensor in words: of its batch a file has any number."""
    return f"{name} {dtype} [{', '.join(map(str, ('batch', *shape[1:])))}]"


def _run_apart(path: Path) -> list[str]:
    """Return what a process says that runs the file once, if it fails: what is damaged in it may end the process."""
    done = run_apart("-m", _APART, path)
    return [why_ended(done, "LiteRT: ")] if done.returncode else []
