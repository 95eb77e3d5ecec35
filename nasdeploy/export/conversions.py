"""A network as ONNX in the precisions and for the runtimes that formats ask for, each made once."""

from collections.abc import Callable
from dataclasses import dataclass, field

from nasdeploy.convert import to_onnx
from nasdeploy.convert.precision import to_fp16
from nasdeploy.nn.network import Network
from nasdeploy.runtimes.runtime import Precision


@dataclass(frozen=True, eq=False)
class Conversions:
    """Of a network in evaluation mode on the CPU."""

    network: Network
    _made: dict[str, bytes] = field(default_factory=dict, init=False, repr=False)

    def onnx(self, precision: Precision, recipe: str) -> bytes:
        """The network in a precision; `recipe` is a key of `convert.quantise.RECIPES` and matters in int8."""
        if precision == "fp32":
            return self._once("fp32", self._fp32)
        return self._once("fp16", self._fp16)

    def _once(self, key: str, make: Callable[[], bytes]) -> bytes:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _fp32(self) -> bytes:
        return to_onnx(self.network)

    def _fp16(self) -> bytes:
        return to_fp16(self.onnx("fp32", ""))
