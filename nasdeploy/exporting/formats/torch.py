"""The program of `torch.export` in a `.pt2` file: PyTorch loads it without the classes that it was written from."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.core.plan import TensorType
from nasdeploy.exporting.formats.format import Interchange, Source, mismatch
from nasdeploy.exporting.manifest import TensorFacts
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Precision, Session, TorchModel

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from nasdeploy.nn.network import Network

_PLAIN = (".json", "/archive_format", "/archive_version", "/byteorder", "/.data/version", "/.data/serialization_id")
"""Ends of the names of entries in which no pickle is read."""
_WEIGHTS = "/data/weights/"


class TorchFormat(Interchange):
    """Weights as raw numbers and a graph as JSON: the file holds no pickle, and one that does is not loaded."""

    suffixes = (".pt2",)
    precisions: tuple[Precision, ...] = ("fp32",)

    def runtime(self, device: Device) -> str:
        """PyTorch."""
        return "torch"

    def recipe(self, device: Device) -> str:
        """Return that of its ONNX model: it is not quantised itself."""
        return "onnxruntime"

    def write(self, source: Source, path: Path) -> None:
        """Export for any batch."""
        save_program(source.network, path)

    def open(self, path: Path, device: Device) -> Session:
        """Open it in PyTorch; raises `UserError` for a file that is damaged or holds a pickle."""
        try:
            program = _load(path)
        # Whatever the reader meets in a damaged file.
        except Exception as error:
            raise UserError(f"{path}: PyTorch cannot load it ({one_line(error)}); export it again") from None
        inputs = {name: TensorType(tuple(shape[1:])) for name, shape in _inputs(program)}
        return runtime_of(device).open(TorchModel(program.module(), inputs), device)

    def inspect(self, path: Path, inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts]) -> list[str]:
        """What the reader finds, pickles, and inputs and outputs that are not as they should be."""
        try:
            program = _load(path)
        # Whatever the reader meets in a damaged file.
        except Exception as error:
            return [f"torch.export: {one_line(error)}"]
        found, wanted = [_text(*each) for each in _inputs(program)], [_text(t.name, t.shape) for t in inputs]
        shapes = [_sizes(node.meta["val"].shape) for node in _results(program)]
        expected = [_sizes(tensor.shape) for tensor in outputs]
        return [
            *mismatch("input", found, wanted),
            *mismatch("output", shapes, expected),
        ]


def save_program(network: "Network", path: Path, largest: int | None = None) -> "ExportedProgram":
    """Write, and give, the program of a network, for any batch or up to the `largest`, and without a pickle."""
    import torch

    ((_, tensor),) = network.plan.only.inputs
    with torch.no_grad():
        program = torch.export.export(
            network.eval(),
            # With a batch of 1 the exporter would take the dimension for a constant. PyTorch chooses between ways to
            # convolve by it, at 16, and takes the range that the example is in for the one that is meant.
            (torch.zeros(largest or 2, *tensor.shape),),
            dynamic_shapes=(({0: torch.export.Dim("batch", min=1, max=largest)},),),
        )
    # They are what torch.export would write as a pickle.
    program.example_inputs = None
    torch.export.save(program, path)
    return program


def _load(path: Path) -> "ExportedProgram":
    """The program; raises `ValueError` for a file with anything that would be read as a pickle."""
    import torch

    with ZipFile(path) as archive:
        suspicious = sorted(_suspicious(archive))
    if suspicious:
        raise ValueError(f"it holds a pickle, {suspicious[0]}")
    # By its content, so that PyTorch does not mind how the file is called.
    with path.open("rb") as file:
        return torch.export.load(file)


def _suspicious(archive: ZipFile) -> Iterator[str]:
    for entry in archive.infolist():
        raw = _WEIGHTS in entry.filename and not entry.filename.endswith(".pt")
        if entry.file_size and not raw and not entry.filename.endswith(_PLAIN):
            yield entry.filename
        if entry.filename.endswith("_config.json") and b'"use_pickle": true' in archive.read(entry):
            yield entry.filename


def _inputs(program: "ExportedProgram") -> list[tuple[str, Any]]:
    nodes = {node.name: node for node in program.graph.nodes}
    user = program.graph_signature.user_inputs
    return [("input", nodes[str(name)].meta["val"].shape) for name in user]


def _results(program: "ExportedProgram") -> list[Any]:
    nodes = {node.name: node for node in program.graph.nodes}
    return [nodes[str(name)] for name in program.graph_signature.user_outputs]


def _text(name: str, shape: Sequence[Any]) -> str:
    return f"{name} {_sizes(shape)}"


def _sizes(shape: Sequence[Any]) -> str:
    return f"[{', '.join(str(size) if isinstance(size, int) else 'batch' for size in shape)}]"
