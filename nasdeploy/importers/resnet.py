"""ResNets of timm and torchvision, whose modules have nearly the same names: block by block."""

from collections.abc import Callable, Mapping
from typing import Any

import timm.models.resnet
import torchvision.models.resnet
from timm.layers.activations import Sigmoid
from timm.layers.drop import DropPath
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn

from nasdeploy.importers.importer import Imported, norm_weights
from nasdeploy.importers.layers import Read, head_of
from nasdeploy.importers.reader import ModelReader, convolution, layer

_ACTIVATIONS = ("relu", "act1", "act2", "act3")
"""The names of the activations of a block, which are all of one kind."""


class ResNetReader(ModelReader):
    """The layers that ResNets of both libraries are made of."""

    def __init__(self, name: str, model: nn.Module) -> None:
        super().__init__(name, model, inert=(DropPath,))

    def activations(self, module: nn.Module) -> str:
        """Return the name of the activation that all of a module's own are."""
        own = [child for name, child in module.named_children() if name in _ACTIVATIONS]
        names = [self.activation(each) for each in own]
        for each, name in zip(own, names, strict=True):
            if name != names[0]:
                raise self.refusal(each, f"is {name}, others of its block {names[0]}")
        return names[0]

    def of_kernel(self, kernel_size: int, stride: int, module: nn.Module, *, grouped: bool = False) -> nn.Conv2d:
        """Return a convolution of one kernel size and stride."""
        conv = self.conv(module, grouped=grouped)
        if (conv.kernel_size[0], conv.stride[0]) != (kernel_size, stride):
            raise self.refusal(conv, f"has a kernel of {conv.kernel_size} and a stride of {conv.stride}")
        return conv

    def squeeze(self, module: nn.Module | None) -> Read:
        """Return the fields of a block that say what its squeeze-and-excitation is, and that one's weights."""
        if module is None:
            return {}, {}
        if type(module) is not SEModule:
            raise self.refusal(module)
        if module.add_maxpool or not isinstance(module.bn, nn.Identity):
            raise self.refusal(module, "computes more than factors from means")
        reduce, restore = self.conv(module.fc1, bias=True), self.conv(module.fc2, bias=True)
        row = {
            "se_channels": reduce.out_channels,
            "gate": self._squeezing_gate(module.gate),
            "se_activation": self.activation(module.act),
        }
        return row, {**layer("reduce", reduce), **layer("restore", restore)}

    def _squeezing_gate(self, module: nn.Module) -> str:
        if type(module) is not Sigmoid:
            return self.gate(module)
        self.take(module)
        return "sigmoid"

    def shortcut(self, module: nn.Module | None, stride: int) -> tuple[Read, tuple[nn.BatchNorm2d, ...]]:
        """Return the fields that say what a shortcut is, and its weights; and its normalisation, if it has one."""
        if module is None:
            return ({}, {}), ()
        layers = [child for child in module.children() if not isinstance(child, nn.Identity)]
        row: dict[str, Any] = {}
        if isinstance(layers[0], nn.AvgPool2d):
            pool: Any = layers.pop(0)
            if (pool.kernel_size, pool.stride, pool.padding, pool.count_include_pad) != (stride, stride, 0, False):
                raise self.refusal(pool, "does not average over the stride")
            self.take(pool)
            row, stride = {"projection": "average"}, 1
        if len(layers) != 2:
            raise self.refusal(module, f"has {len(layers)} layers")
        conv, norm = self.of_kernel(1, stride, layers[0]), self.norm(layers[1])
        return (row, convolution("shortcut", conv, norm)), (norm,)


def read_resnet(name: str, model: Any, found: Imported) -> None:
    """Read a model of timm's or torchvision's class `ResNet`."""
    reader = ResNetReader(name, model)
    found.add_stem(*_stem(reader, model))
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        found.add_stage()
        for block in stage:
            if type(block) not in _BLOCKS:
                raise reader.refusal(block)
            found.add_block(*_BLOCKS[type(block)](reader, block))
    pool = model.avgpool if isinstance(model, torchvision.models.resnet.ResNet) else model.global_pool.pool
    if not isinstance(pool, nn.AdaptiveAvgPool2d):
        raise reader.refusal(pool)
    reader.take(pool)
    found.add_head(*head_of(reader.linear(model.fc)))
    reader.finish()


def _stem(reader: ResNetReader, model: Any) -> Read:
    layers = [*model.conv1, model.bn1] if isinstance(model.conv1, nn.Sequential) else [model.conv1, model.bn1]
    parts = [layers[at : at + 2] for at in range(0, len(layers), 3)]
    convs, norms = [reader.conv(conv) for conv, _ in parts], [reader.norm(norm) for _, norm in parts]
    activation = reader.activations(model)
    for act in layers[2::3]:
        if reader.activation(act) != activation:
            raise reader.refusal(act, f"is not {activation}, as the last one")
    for conv, stride in zip(convs, (2, 1, 1), strict=False):
        reader.of_kernel(convs[0].kernel_size[0], stride, conv)
    pooling, weights = _pooling(reader, model.maxpool)
    row = {
        "kind": "pooling-stem",
        "out_channels": convs[-1].out_channels,
        "kernel_size": convs[0].kernel_size[0],
        "activation": activation,
        "pooling": pooling,
        "bn_eps": reader.eps(*norms),
    }
    if len(convs) == 3:
        row |= {"first_channels": convs[0].out_channels, "second_channels": convs[1].out_channels}
    for number, (conv, norm) in enumerate(zip(convs, norms, strict=True)):
        weights |= {**layer(f"convs.{number}", conv), **norm_weights(f"norms.{number}", norm)}
    return row, weights


def _pooling(reader: ResNetReader, pool: nn.Module) -> tuple[str, dict[str, Tensor]]:
    """Return what ends a stem, and its weights."""
    if isinstance(pool, nn.MaxPool2d):
        if (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode) != (3, 2, 1, False):
            raise reader.refusal(pool, f"has a kernel of {pool.kernel_size} and a stride of {pool.stride}")
        reader.take(pool)
        return "max", {}
    if not isinstance(pool, nn.Sequential) or len(pool) != 3:
        raise reader.refusal(pool[-1] if isinstance(pool, nn.Sequential) else pool)
    conv, norm = reader.of_kernel(3, 2, pool[0]), reader.norm(pool[1])
    reader.activation(pool[2])
    return "convolution", convolution("pool", conv, norm)


def _basic(reader: ResNetReader, block: Any) -> Read:
    stride = block.conv1.stride[0]
    convs = [reader.of_kernel(3, stride, block.conv1), reader.of_kernel(3, 1, block.conv2)]
    norms = [reader.norm(norm) for norm in (block.bn1, block.bn2)]
    return _block(reader, block, {"kind": "basic", "stride": stride}, convs, norms)


def _bottleneck(reader: ResNetReader, block: Any) -> Read:
    stride = block.conv2.stride[0]
    spatial = reader.of_kernel(3, stride, block.conv2, grouped=True)
    convs = [reader.of_kernel(1, 1, block.conv1), spatial, reader.of_kernel(1, 1, block.conv3)]
    norms = [reader.norm(norm) for norm in (block.bn1, block.bn2, block.bn3)]
    width = spatial.out_channels // spatial.groups if spatial.groups > 1 else 0
    read = _block(reader, block, {"kind": "bottleneck", "stride": stride, "group_width": width}, convs, norms)
    if spatial.in_channels != spatial.out_channels:
        raise reader.refusal(spatial, f"has {spatial.in_channels} inputs and {spatial.out_channels} outputs")
    return read


def _block(
    reader: ResNetReader, block: Any, row: dict[str, Any], convs: list[nn.Conv2d], norms: list[nn.BatchNorm2d]
) -> Read:
    """Return a row and weights: what both kinds of blocks have is added to what they have not."""
    inside, outside, stride = convs[0].in_channels, convs[-1].out_channels, row["stride"]
    squeeze, squeeze_weights = reader.squeeze(getattr(block, "se", None))
    (shortcut, shortcut_weights), shortcut_norms = reader.shortcut(block.downsample, stride)
    if block.downsample is not None and stride == 1 and inside == outside:
        raise reader.refusal(block.downsample, "projects where shapes are equal")
    row |= squeeze | shortcut
    row |= {
        "out_channels": outside,
        "mid_channels": convs[0].out_channels,
        "activation": reader.activations(block),
        "bn_eps": reader.eps(*norms, *shortcut_norms),
    }
    weights = {**squeeze_weights, **shortcut_weights}
    for number, (conv, norm) in enumerate(zip(convs, norms, strict=True), start=1):
        weights |= convolution(f"conv{number}", conv, norm)
    return row, weights


_BLOCKS: Mapping[type[nn.Module], Callable[[ResNetReader, Any], Read]] = {
    timm.models.resnet.BasicBlock: _basic,
    timm.models.resnet.Bottleneck: _bottleneck,
    torchvision.models.resnet.BasicBlock: _basic,
    torchvision.models.resnet.Bottleneck: _bottleneck,
}
"""The reading of each class of blocks."""
