"""PyTorch itself on the CPU: eager, or compiled with the option `compile: "true"` (a C++ compiler is needed then)."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.core.plan import Shape
from nasdeploy.runtimes.runtime import (
    Array,
    Form,
    Model,
    Precision,
    Session,
    Target,
    TorchModel,
    only,
    random_input,
    require_samples,
    timed_inputs_generator,
    wants,
)

_COMPILE = "compile"


class PyTorch:
    """Modules as they are, in inference mode."""

    form: Form = "module"
    precisions: tuple[Precision, ...] = ("fp32",)
    largest_batch: int | None = None
    needs_gpu: bool = False
    oldest: str | None = None

    def missing(self) -> str | None:
        """Return the command that installs it, or None."""
        return None if find_spec("torch") else "pip install torch"

    def obstacle(self) -> str | None:
        """Return None: every machine has a CPU."""
        return None

    def version(self) -> str:
        """Return the version of the package."""
        return version("torch")

    def computes(self, precision: Precision) -> Precision:
        """Return the model as it is stored."""
        return precision

    def open(self, model: Model, device: Target) -> Session:
        """Open the module and call it once; raises `UserError` if that fails, or for a file."""
        if not isinstance(model, TorchModel):
            name = "the model" if isinstance(model, bytes) else str(model)
            raise UserError(
                f"{name}: PyTorch runs modules, not files; open it on a device of another runtime, e.g. cpu"
            )
        only((_COMPILE,), device)
        session = _TorchSession(model, device)
        try:
            session.call()
        # A module is code, and so is what it is compiled to: it may raise anything.
        except Exception as error:
            raise UserError(f"the model: PyTorch cannot run it ({one_line(error)}); correct the module") from None
        return session


class _TorchSession:
    def __init__(self, model: TorchModel, device: Target) -> None:
        import torch

        module = model.module.cpu()
        # A program of torch.export has one mode, that of its export, and refuses to be asked for one.
        if not isinstance(module, torch.fx.GraphModule):
            module.eval()
        self._module: Any = torch.compile(module) if wants(_COMPILE, device) else module
        self._inputs = {name: (device.batch, *tensor.shape) for name, tensor in model.inputs.items()}
        self._threads = device.threads
        rng = timed_inputs_generator()
        self._fixed = [
            torch.from_numpy(random_input(self._inputs[name], tensor.dtype, tensor.values, rng))
            for name, tensor in model.inputs.items()
        ]

    @property
    def inputs(self) -> Mapping[str, Shape]:
        return self._inputs

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        import torch

        require_samples(feeds)
        outputs = self._forward([torch.from_numpy(feeds[name]) for name in self._inputs])
        return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]

    def call(self) -> None:
        self._forward(self._fixed)

    def _forward(self, inputs: Sequence[Any]) -> Any:
        """Set the number of threads, which is the process's, and so is the session's for the time of a call only."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                return self._module(*inputs)
        finally:
            torch.set_num_threads(before)

    def close(self) -> None:
        self._module = None
        self._fixed = []
