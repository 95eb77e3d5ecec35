"""The modules of another library's model, checked one by one: what no block expresses is refused by its name."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nasdeploy.core.errors import UserError
from nasdeploy.importers.importer import norm_weights

ACTIVATIONS: Mapping[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "swish",
    nn.Hardswish: "hswish",
}
GATES: Mapping[type[nn.Module], str] = {nn.Sigmoid: "sigmoid", nn.Hardsigmoid: "hardsigmoid"}
_INERT = (nn.Identity, nn.Dropout, nn.Flatten)
"""The modules that compute nothing in evaluation, or nothing that a head does not do by itself."""


class ModelReader:
    """The modules of one model, which are taken one by one; in the end nothing may be left over."""

    def __init__(self, name: str, model: nn.Module, inert: tuple[type[nn.Module], ...] = ()) -> None:
        """Errors speak of the model by its name, e.g. `timm:resnet18`; `inert` modules do nothing in evaluation."""
        self.name, self.model, self._inert = name, model, (*_INERT, *inert)
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._taken: set[int] = set()

    def refusal(self, module: nn.Module, what: str = "") -> UserError:
        """Return the error that says where a module stands and what it is, which no block expresses."""
        found = what or f"is of class {type(module).__name__}"
        return UserError(f"{self.name}: {self._paths[id(module)]} {found}, which no block expresses")

    def take(self, *modules: nn.Module) -> None:
        """Note that blocks compute what these modules do, and what is in them."""
        self._taken.update(id(part) for module in modules for part in module.modules())

    def conv(
        self,
        module: nn.Module,
        *,
        depthwise: bool = False,
        grouped: bool = False,
        bias: bool = False,
        same: Any = None,
    ) -> nn.Conv2d:
        """Return a square convolution over all channels, or over each by itself, with padding that blocks have.

        `same` is the library's class of convolutions that pad as TensorFlow does. `grouped` says whether it may have
        any number of groups, `bias` whether it may have one.
        """
        if type(module) is not nn.Conv2d and (same is None or type(module) is not same):
            raise self.refusal(module)
        assert isinstance(module, nn.Conv2d)
        kernel = module.kernel_size
        if kernel[0] != kernel[1] or kernel[0] % 2 == 0 or module.stride[0] != module.stride[1]:
            raise self.refusal(module, f"has a kernel of {kernel} and a stride of {module.stride}")
        if module.dilation != (1, 1):
            raise self.refusal(module, f"has a dilation of {module.dilation}")
        if not grouped and module.groups != (module.in_channels if depthwise else 1):
            raise self.refusal(module, f"has {module.groups} groups for {module.in_channels} channels")
        if type(module) is nn.Conv2d and module.padding != (kernel[0] // 2, kernel[1] // 2):
            raise self.refusal(module, f"has a padding of {module.padding}")
        if module.bias is not None and not bias:
            raise self.refusal(module, "has a bias")
        self.take(module)
        return module

    def norm(self, module: nn.Module, kind: type[nn.BatchNorm2d] = nn.BatchNorm2d) -> nn.BatchNorm2d:
        """Return a batch normalisation with scales, shifts and running statistics; `kind` is the library's class."""
        if type(module) is not kind:
            raise self.refusal(module)
        if not module.affine or module.running_mean is None:
            raise self.refusal(module, "has no scales or no running statistics")
        self._taken.add(id(module))
        return module

    def activation(self, module: nn.Module) -> str:
        """Return the name of an activation."""
        if type(module) not in ACTIVATIONS:
            raise self.refusal(module)
        self.take(module)
        return ACTIVATIONS[type(module)]

    def gate(self, module: nn.Module) -> str:
        """Return the name of what squeeze-and-excitation makes its factors with."""
        if type(module) not in GATES:
            raise self.refusal(module)
        self.take(module)
        return GATES[type(module)]

    def linear(self, module: nn.Module) -> nn.Linear:
        """Return a layer with bias."""
        if not isinstance(module, nn.Linear):
            raise self.refusal(module)
        if module.bias is None:
            raise self.refusal(module, "has no bias")
        self.take(module)
        return module

    def eps(self, *norms: nn.BatchNorm2d) -> float:
        """Return what the normalisations of a block add to variances; raises `UserError` if it differs."""
        for norm in norms:
            if norm.eps != norms[0].eps:
                raise self.refusal(norm, f"adds {norm.eps} to variances, others of its block {norms[0].eps}")
        return norms[0].eps

    def finish(self) -> None:
        """Raise `UserError` for the first module that does something and was not taken."""
        for module in self.model.modules():
            inside = next(module.children(), None) is not None
            own = next(module.parameters(recurse=False), None) is not None
            if id(module) not in self._taken and (own or not inside) and not isinstance(module, self._inert):
                raise self.refusal(module)


def convolution(name: str, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> dict[str, Tensor]:
    """Return the tensors of a convolution and its normalisation, by their names in families' modules."""
    return {f"{name}.weight": conv.weight, **norm_weights(f"{name}_norm", norm)}


def layer(name: str, module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a layer with or without bias."""
    tensors = {each: getattr(module, each) for each in ("weight", "bias")}
    return {f"{name}.{each}": tensor for each, tensor in tensors.items() if tensor is not None}


def padding(conv: nn.Conv2d) -> str:
    """Return the kind of padding of a convolution that `ModelReader.conv` let pass."""
    return "symmetric" if type(conv) is nn.Conv2d else "same"
