"""Blocks of mobile networks from their layers in order, whatever a library's classes call them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from nasdeploy.importers.importer import norm_weights
from nasdeploy.importers.reader import ModelReader, convolution, layer, padding

Read = tuple[dict[str, Any], dict[str, Tensor]]
"""A row of the table of blocks, and the weights by their names in the family's module."""


@dataclass(frozen=True)
class Squeeze:
    """Squeeze-and-excitation: its two convolutions, the activation between them, and what makes the factors."""

    reduce: nn.Conv2d
    restore: nn.Conv2d
    activation: str
    gate: str


@dataclass(frozen=True)
class Layer:
    """A convolution with its normalisation, and what follows these."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    activation: str = "none"
    squeeze: Squeeze | None = None

    @property
    def shape(self) -> str:
        """The kind of convolution: `d` for depthwise, `p` for kernel size and stride 1, `c` for any other."""
        if self.conv.groups > 1:
            return "d"
        return "p" if (self.conv.kernel_size, self.conv.stride) == ((1, 1), (1, 1)) else "c"

    @property
    def spatial(self) -> dict[str, Any]:
        """The fields that a block has of its spatial convolution."""
        conv = self.conv
        return {"kernel_size": conv.kernel_size[0], "stride": conv.stride[0], "padding": padding(conv)}


class Layers:
    """The layers of one block in order."""

    def __init__(self, reader: ModelReader, module: nn.Module, layers: Sequence[Layer], shortcut: bool) -> None:
        """Errors name `module`, in which they stand; `shortcut` says whether the input is added in the end."""
        self._reader, self._module, self._all = reader, module, tuple(layers)
        self._shapes = "".join(each.shape for each in layers)
        self._common: dict[str, Any] = {
            "out_channels": layers[-1].conv.out_channels,
            "bn_eps": reader.eps(*(each.norm for each in layers)),
            "shortcut": "identity" if shortcut else "none",
        }

    def block(self) -> Read:
        """Return the block that they are; raises `UserError` if there is none."""
        squeezed = [place for place, each in enumerate(self._all) if each.squeeze is not None]
        if self._shapes in ("c", "p") and not squeezed:
            return _alone(self._reader, "convolution", self._all[0], self._common)
        if self._shapes in ("pdp", "dp", "cp") and squeezed in ([], [len(self._all) - 2]):
            return self._expanded()
        raise self._refusal()

    def universal(self) -> Read:
        """Return the universal inverted residual block that they are; raises `UserError` if they are none."""
        if self._shapes not in ("pp", "dpp", "pdp", "dpdp") or any(each.squeeze for each in self._all):
            raise self._refusal()
        *before, _ = self._all
        start = before.pop(0) if before[0].shape == "d" else None
        expand, middle = before[0], before[1] if len(before) == 2 else None
        row: dict[str, Any] = self._common | {
            "kind": "universal-inverted-residual",
            "mid_channels": expand.conv.out_channels,
            "activation": self._activation(before),
            "stride": 1,
        }
        for each, field in (start, "start_kernel"), (middle, "middle_kernel"):
            if each is not None:
                if row["stride"] > 1:
                    raise self._refusal()
                spatial = each.spatial
                row |= {field: spatial.pop("kernel_size"), **spatial}
        if start is not None and start.activation != "none":
            raise self._refusal()
        names = {"start": start, "expand": expand, "depthwise": middle}
        return row, self._weights({name: each for name, each in names.items() if each is not None})

    def _expanded(self) -> Read:
        """Return the block that expands, or does not, convolves, and projects."""
        *before, project = self._all
        spatial, fused = before[-1], before[-1].shape == "c"
        row = (
            self._common
            | spatial.spatial
            | {
                "kind": "fused-inverted-residual" if fused else "inverted-residual",
                "mid_channels": spatial.conv.out_channels,
                "activation": self._activation(before),
                **_squeeze_row(spatial.squeeze),
            }
        )
        if not fused:
            row["out_activation"] = project.activation
        elif project.activation != "none":
            raise self._refusal()
        if len(before) == 2:
            row["expansion"] = "always"
        names = ("expand",) if fused else ("expand", "depthwise")[-len(before) :]
        return row, self._weights(dict(zip(names, before, strict=True)))

    def _activation(self, layers: Sequence[Layer]) -> str:
        """Return the activation that follows each of the layers."""
        found = {each.activation for each in layers}
        if len(found) > 1 or "none" in found:
            raise self._refusal()
        return found.pop()

    def _weights(self, layers: dict[str, Layer]) -> dict[str, Tensor]:
        """Return the tensors of named layers, of squeeze-and-excitation, and of the projection."""
        found: dict[str, Tensor] = {}
        for name, each in {**layers, "project": self._all[-1]}.items():
            found |= convolution(name, each.conv, each.norm)
            if each.squeeze is not None:
                found |= layer("reduce", each.squeeze.reduce) | layer("restore", each.squeeze.restore)
        return found

    def _refusal(self) -> Exception:
        words = {"d": "depthwise", "p": "pointwise", "c": "spatial"}
        order = ", ".join(f"{words[each.shape]} ({each.activation})" for each in self._all)
        return self._reader.refusal(self._module, f"has convolutions (and activations) in the order {order}")


def stem_of(reader: ModelReader, only: Layer) -> Read:
    """Return the stem that a layer is."""
    return _alone(reader, "stem", only, {"out_channels": only.conv.out_channels, "bn_eps": only.norm.eps})


def head_of(classifier: nn.Linear, conv: Layer | None = None, hidden: "HiddenLayer | None" = None) -> Read:
    """Return the head of a convolution, pooling, a layer and a classifier, of which the first and third may be none.

    Where there are both, the same activation follows them.
    """
    row: dict[str, Any] = {"kind": "classifier", "classes": classifier.out_features, "activation": "relu"}
    weights = layer("classifier", classifier)
    if conv is not None:
        row |= {"conv_channels": conv.conv.out_channels, "bn_eps": conv.norm.eps, "activation": conv.activation}
        weights |= convolution("conv", conv.conv, conv.norm)
    if hidden is not None:
        row |= {"hidden_channels": hidden.weight.shape[0], "activation": hidden.activation}
        row |= {"hidden_bias": hidden.bias is not None, "hidden_norm": hidden.norm is not None}
        # Layers of rows of numbers are 1x1 convolutions of what was pooled.
        weights["hidden.weight"] = hidden.weight.reshape(*hidden.weight.shape[:2], 1, 1)
        if hidden.bias is not None:
            weights["hidden.bias"] = hidden.bias
        if hidden.norm is not None:
            row["bn_eps"] = hidden.norm.eps
            weights |= norm_weights("hidden_norm", hidden.norm)
    return row, weights


@dataclass(frozen=True)
class HiddenLayer:
    """The layer between pooling and classifier."""

    weight: Tensor
    """The matrix `[out, in]`, or a 1x1 convolution's."""
    activation: str
    bias: Tensor | None = None
    norm: nn.BatchNorm2d | None = None


def _alone(reader: ModelReader, kind: str, only: Layer, common: dict[str, Any]) -> Read:
    """Return a convolution with normalisation and activation, whose other fields are `common`."""
    if only.activation == "none":
        raise reader.refusal(only.norm, "is not followed by an activation")
    row = {"kind": kind, **common, **only.spatial, "activation": only.activation}
    return row, {**layer("conv", only.conv), **norm_weights("norm", only.norm)}


def _squeeze_row(squeeze: Squeeze | None) -> dict[str, Any]:
    if squeeze is None:
        return {"se_channels": 0}
    return {
        "se_channels": squeeze.reduce.out_channels,
        "gate": squeeze.gate,
        "se_activation": squeeze.activation,
    }
