"""Models of timm's classes `EfficientNet` and `MobileNetV3`, which differ in their heads: block by block."""

from collections.abc import Callable, Mapping
from typing import Any

from timm.layers.conv2d_same import Conv2dSame
from timm.layers.drop import DropPath
from timm.layers.norm_act import BatchNormAct2d
from timm.models import EfficientNet, MobileNetV3
from timm.models._efficientnet_blocks import (
    ConvBnAct,
    DepthwiseSeparableConv,
    EdgeResidual,
    InvertedResidual,
    SqueezeExcite,
    UniversalInvertedResidual,
)
from torch import Tensor, nn

from nasdeploy.importers.importer import Imported, norm_weights
from nasdeploy.importers.reader import ModelReader, convolution, layer, padding

Read = tuple[dict[str, Any], dict[str, Tensor]]
"""A row of the table of blocks, and the weights by their names in the family's module."""


class EfficientNetReader(ModelReader):
    """The layers that both classes are made of."""

    def __init__(self, name: str, model: EfficientNet | MobileNetV3) -> None:
        super().__init__(name, model, inert=(DropPath,))

    def convolve(self, conv: nn.Module, *, depthwise: bool = False, bias: bool = False) -> nn.Conv2d:
        """Return a convolution, which may pad as TensorFlow does."""
        return self.conv(conv, depthwise=depthwise, bias=bias, same=Conv2dSame)

    def pointwise(self, conv: nn.Module) -> nn.Conv2d:
        """Return a convolution of kernel size and stride 1."""
        found = self.convolve(conv)
        if (found.kernel_size, found.stride) != ((1, 1), (1, 1)):
            raise self.refusal(conv, f"has a kernel of {found.kernel_size} and a stride of {found.stride}")
        return found

    def normalise(self, norm: nn.Module) -> tuple[BatchNormAct2d, str]:
        """Return a normalisation and the name of the activation in it, which may be `none`."""
        found = self.norm(norm, BatchNormAct2d)
        assert isinstance(found, BatchNormAct2d)
        return found, "none" if isinstance(found.act, nn.Identity) else self.activation(found.act)

    def plain(self, norm: nn.Module) -> BatchNormAct2d:
        """Return a normalisation without an activation."""
        found, activation = self.normalise(norm)
        if activation != "none":
            raise self.refusal(norm, f"is followed by {activation}")
        return found

    def activated(self, *norms: nn.Module) -> tuple[str, list[BatchNormAct2d]]:
        """Return the activation that follows all of the normalisations, and these."""
        found = [self.normalise(norm) for norm in norms]
        for norm, (_, activation) in zip(norms, found, strict=True):
            if activation == "none" or activation != found[0][1]:
                raise self.refusal(norm, f"is followed by {activation}, others of its block by {found[0][1]}")
        return found[0][1], [norm for norm, _ in found]

    def squeeze(self, module: nn.Module) -> Read:
        """Return the fields of a block that say what its squeeze-and-excitation is, and that one's weights."""
        if isinstance(module, nn.Identity):
            return {"se_channels": 0}, {}
        if type(module) is not SqueezeExcite:
            raise self.refusal(module)
        reduce, restore = self.convolve(module.conv_reduce, bias=True), self.convolve(module.conv_expand, bias=True)
        row = {
            "se_channels": reduce.out_channels,
            "gate": self.gate(module.gate),
            "se_activation": self.activation(module.act1),
        }
        return row, {**layer("reduce", reduce), **layer("restore", restore)}


def read_efficientnet(name: str, model: EfficientNet, found: Imported) -> None:
    """Read a model of timm's class `EfficientNet`: a convolution before pooling."""
    reader = EfficientNetReader(name, model)
    _read_body(reader, model, found)
    row: dict[str, Any] = {"kind": "classifier", "classes": model.num_classes, "activation": "relu"}
    weights: dict[str, Tensor] = {}
    if not isinstance(model.conv_head, nn.Identity):
        conv, (activation, (norm,)) = reader.pointwise(model.conv_head), reader.activated(model.bn2)
        row |= {"activation": activation, "conv_channels": conv.out_channels, "bn_eps": norm.eps}
        weights = convolution("conv", conv, norm)
    _read_classifier(reader, model, found, row, weights)


def read_mobilenet_v3(name: str, model: MobileNetV3, found: Imported) -> None:
    """Read a model of timm's class `MobileNetV3`: a layer after pooling, with a bias, a normalisation or neither."""
    reader = EfficientNetReader(name, model)
    _read_body(reader, model, found)
    hidden = reader.convolve(model.conv_head, bias=True)
    row = {"kind": "classifier", "classes": model.num_classes, "hidden_channels": hidden.out_channels}
    row["hidden_bias"] = hidden.bias is not None
    weights = layer("hidden", hidden)
    if isinstance(model.norm_head, nn.Identity):
        row["activation"] = reader.activation(model.act2)
    else:
        row["activation"], (norm,) = reader.activated(model.norm_head)
        row |= {"hidden_norm": True, "bn_eps": norm.eps}
        weights = convolution("hidden", hidden, norm)
    _read_classifier(reader, model, found, row, weights)


def _read_body(reader: EfficientNetReader, model: EfficientNet | MobileNetV3, found: Imported) -> None:
    """Read stem and stages."""
    conv, (activation, (norm,)) = reader.convolve(model.conv_stem), reader.activated(model.bn1)
    row = _spatial("stem", conv) | {"activation": activation, "bn_eps": norm.eps}
    found.add_stem(row, {**layer("conv", conv), **norm_weights("norm", norm)})
    stages: Any = model.blocks
    for stage in stages:
        found.add_stage()
        for block in stage:
            if type(block) not in _BLOCKS:
                raise reader.refusal(block)
            found.add_block(*_BLOCKS[type(block)](reader, block))


def _read_classifier(
    reader: EfficientNetReader,
    model: EfficientNet | MobileNetV3,
    found: Imported,
    row: dict[str, Any],
    weights: dict[str, Tensor],
) -> None:
    """Add the head: what comes before the classifier is in `row` and `weights`."""
    pool: Any = model.global_pool
    if not isinstance(pool.pool, nn.AdaptiveAvgPool2d):
        raise reader.refusal(pool, f"pools by {pool.pool_type}")
    reader.take(pool)
    found.add_head(row, {**weights, **layer("classifier", reader.linear(model.classifier))})
    reader.finish()


def _spatial(kind: str, conv: nn.Conv2d) -> dict[str, Any]:
    """Return the fields that a block has of its spatial convolution."""
    return {
        "kind": kind,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size[0],
        "stride": conv.stride[0],
        "padding": padding(conv),
    }


def _residual(block: Any) -> dict[str, Any]:
    return {"shortcut": "identity" if block.has_skip else "none"}


def _inverted_residual(reader: EfficientNetReader, block: InvertedResidual) -> Read:
    expand, depthwise = reader.pointwise(block.conv_pw), reader.convolve(block.conv_dw, depthwise=True)
    activation, (expand_norm, norm) = reader.activated(block.bn1, block.bn2)
    squeeze, squeeze_weights = reader.squeeze(block.se)
    project, project_norm = reader.pointwise(block.conv_pwl), reader.plain(block.bn3)
    row = (
        _spatial("inverted-residual", depthwise)
        | _residual(block)
        | squeeze
        | {
            "out_channels": project.out_channels,
            "mid_channels": depthwise.out_channels,
            "activation": activation,
            "bn_eps": reader.eps(expand_norm, norm, project_norm),
            "expansion": "always",
        }
    )
    weights = {
        **convolution("expand", expand, expand_norm),
        **convolution("depthwise", depthwise, norm),
        **squeeze_weights,
        **convolution("project", project, project_norm),
    }
    return row, weights


def _separable(reader: EfficientNetReader, block: DepthwiseSeparableConv) -> Read:
    depthwise, (activation, (norm,)) = reader.convolve(block.conv_dw, depthwise=True), reader.activated(block.bn1)
    squeeze, squeeze_weights = reader.squeeze(block.se)
    project, (project_norm, out_activation) = reader.pointwise(block.conv_pw), reader.normalise(block.bn2)
    row = (
        _spatial("inverted-residual", depthwise)
        | _residual(block)
        | squeeze
        | {
            "out_channels": project.out_channels,
            "mid_channels": depthwise.out_channels,
            "activation": activation,
            "out_activation": out_activation,
            "bn_eps": reader.eps(norm, project_norm),
        }
    )
    weights = {
        **convolution("depthwise", depthwise, norm),
        **squeeze_weights,
        **convolution("project", project, project_norm),
    }
    return row, weights


def _fused(reader: EfficientNetReader, block: EdgeResidual) -> Read:
    expand, (activation, (norm,)) = reader.convolve(block.conv_exp), reader.activated(block.bn1)
    squeeze, squeeze_weights = reader.squeeze(block.se)
    project, project_norm = reader.pointwise(block.conv_pwl), reader.plain(block.bn2)
    row = (
        _spatial("fused-inverted-residual", expand)
        | _residual(block)
        | squeeze
        | {
            "out_channels": project.out_channels,
            "mid_channels": expand.out_channels,
            "activation": activation,
            "bn_eps": reader.eps(norm, project_norm),
        }
    )
    weights = {
        **convolution("expand", expand, norm),
        **squeeze_weights,
        **convolution("project", project, project_norm),
    }
    return row, weights


def _universal(reader: EfficientNetReader, block: UniversalInvertedResidual) -> Read:
    expand, project = reader.pointwise(block.pw_exp.conv), reader.pointwise(block.pw_proj.conv)
    activation, (expand_norm,) = reader.activated(block.pw_exp.bn)
    project_norm = reader.plain(block.pw_proj.bn)
    weights = {**convolution("expand", expand, expand_norm), **convolution("project", project, project_norm)}
    norms: list[nn.BatchNorm2d] = [expand_norm, project_norm]
    row = _residual(block) | {
        "kind": "universal-inverted-residual",
        "out_channels": project.out_channels,
        "mid_channels": expand.out_channels,
        "stride": 1,
        "activation": activation,
    }
    for name, part, field in (("start", block.dw_start, "start_kernel"), ("depthwise", block.dw_mid, "middle_kernel")):
        if not isinstance(part, nn.Identity):
            depthwise = reader.convolve(part.conv, depthwise=True)
            if row["stride"] > 1:
                raise reader.refusal(part, "follows a depthwise convolution with a stride")
            row |= {field: depthwise.kernel_size[0], "stride": depthwise.stride[0], "padding": padding(depthwise)}
            norms.append(reader.plain(part.bn) if name == "start" else reader.activated(block.pw_exp.bn, part.bn)[1][1])
            weights |= convolution(name, depthwise, norms[-1])
    return row | {"bn_eps": reader.eps(*norms)}, weights


def _convolution(reader: EfficientNetReader, block: ConvBnAct) -> Read:
    conv, (activation, (norm,)) = reader.convolve(block.conv), reader.activated(block.bn1)
    row = _spatial("convolution", conv) | _residual(block) | {"activation": activation, "bn_eps": norm.eps}
    return row, {**layer("conv", conv), **norm_weights("norm", norm)}


_BLOCKS: Mapping[type[nn.Module], Callable[[EfficientNetReader, Any], Read]] = {
    InvertedResidual: _inverted_residual,
    DepthwiseSeparableConv: _separable,
    EdgeResidual: _fused,
    UniversalInvertedResidual: _universal,
    ConvBnAct: _convolution,
}
"""The reading of each class of timm's blocks."""
