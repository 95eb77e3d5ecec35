"""Models of timm's classes `EfficientNet` and `MobileNetV3`, which differ in their heads."""

from collections.abc import Mapping
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
from torch import nn

from nasdeploy.importers.importer import Imported
from nasdeploy.importers.layers import HiddenLayer, Layer, Layers, Read, Squeeze, head_of, stem_of
from nasdeploy.importers.reader import ModelReader

_LAYERS: Mapping[type[nn.Module], tuple[tuple[str, str, str], ...]] = {
    InvertedResidual: (("conv_pw", "bn1", ""), ("conv_dw", "bn2", "se"), ("conv_pwl", "bn3", "")),
    DepthwiseSeparableConv: (("conv_dw", "bn1", "se"), ("conv_pw", "bn2", "")),
    EdgeResidual: (("conv_exp", "bn1", "se"), ("conv_pwl", "bn2", "")),
    ConvBnAct: (("conv", "bn1", ""),),
}
"""The layers of each class of blocks: the names of convolution, normalisation and squeeze-and-excitation."""


class EfficientNetReader(ModelReader):
    """The layers that both classes are made of."""

    def __init__(self, name: str, model: EfficientNet | MobileNetV3) -> None:
        super().__init__(name, model, inert=(DropPath,))

    def layer(self, conv: nn.Module, norm: nn.Module, squeeze: nn.Module | None = None) -> Layer:
        """Return a convolution with its normalisation, which holds the activation."""
        found = self.norm(norm, BatchNormAct2d)
        act: Any = found.act
        return Layer(
            self.conv(conv, depthwise=getattr(conv, "groups", 1) > 1, same=Conv2dSame),
            found,
            "none" if isinstance(act, nn.Identity) else self.activation(act),
            None if squeeze is None or isinstance(squeeze, nn.Identity) else self._squeeze(squeeze),
        )

    def _squeeze(self, module: nn.Module) -> Squeeze:
        if type(module) is not SqueezeExcite:
            raise self.refusal(module)
        reduce, restore = self.conv(module.conv_reduce, bias=True), self.conv(module.conv_expand, bias=True)
        return Squeeze(reduce, restore, self.activation(module.act1), self.gate(module.gate))

    def block(self, block: Any) -> Read:
        """Return the row and the weights of a block."""
        if type(block) is UniversalInvertedResidual:
            parts = (block.dw_start, block.pw_exp, block.dw_mid, block.pw_proj)
            layers = [self.layer(part.conv, part.bn) for part in parts if not isinstance(part, nn.Identity)]
            return Layers(self, block, layers, block.has_skip).universal()
        if type(block) not in _LAYERS:
            raise self.refusal(block)
        named: list[list[Any]] = [[getattr(block, name, None) for name in names] for names in _LAYERS[type(block)]]
        return Layers(self, block, [self.layer(*modules) for modules in named], block.has_skip).block()


def read_efficientnet(name: str, model: EfficientNet, found: Imported) -> None:
    """Read a model of timm's class `EfficientNet`: a convolution before pooling."""
    reader = EfficientNetReader(name, model)
    _read_body(reader, model, found)
    conv = None if isinstance(model.conv_head, nn.Identity) else reader.layer(model.conv_head, model.bn2)
    _finish(reader, model, found, conv)


def read_mobilenet_v3(name: str, model: MobileNetV3, found: Imported) -> None:
    """Read a model of timm's class `MobileNetV3`: a layer after pooling, with a bias, a normalisation or neither."""
    reader = EfficientNetReader(name, model)
    _read_body(reader, model, found)
    if isinstance(model.norm_head, nn.Identity):
        conv = reader.conv(model.conv_head, bias=True)
        hidden = HiddenLayer(conv.weight, reader.activation(model.act2), conv.bias)
    else:
        made = reader.layer(model.conv_head, model.norm_head)
        hidden = HiddenLayer(made.conv.weight, made.activation, norm=made.norm)
    _finish(reader, model, found, hidden=hidden)


def _read_body(reader: EfficientNetReader, model: EfficientNet | MobileNetV3, found: Imported) -> None:
    """Read stem and stages."""
    found.add_stem(*stem_of(reader, reader.layer(model.conv_stem, model.bn1)))
    stages: Any = model.blocks
    for stage in stages:
        found.add_stage()
        for block in stage:
            found.add_block(*reader.block(block))


def _finish(
    reader: EfficientNetReader,
    model: EfficientNet | MobileNetV3,
    found: Imported,
    conv: Layer | None = None,
    hidden: HiddenLayer | None = None,
) -> None:
    """Add the head; raises `UserError` for anything that was not read."""
    pool: Any = model.global_pool
    if not isinstance(pool.pool, nn.AdaptiveAvgPool2d):
        raise reader.refusal(pool, f"pools by {pool.pool_type}")
    reader.take(pool)
    found.add_head(*head_of(reader.linear(model.classifier), conv, hidden))
    reader.finish()
