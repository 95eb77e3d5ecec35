"""torchvision's MobileNets, MNASNets and EfficientNets, whose blocks are sequences of layers."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torchvision.models import EfficientNet, MNASNet, MobileNetV2, MobileNetV3
from torchvision.models.efficientnet import FusedMBConv, MBConv
from torchvision.models.mnasnet import _InvertedResidual as MNASNetBlock
from torchvision.models.mobilenetv2 import InvertedResidual as MobileNetV2Block
from torchvision.models.mobilenetv3 import InvertedResidual as MobileNetV3Block
from torchvision.ops import SqueezeExcitation, StochasticDepth

from nasdeploy.importers.importer import Imported
from nasdeploy.importers.layers import HiddenLayer, Layer, Layers, Squeeze, head_of, stem_of
from nasdeploy.importers.reader import ModelReader

_BLOCKS: dict[type[nn.Module], tuple[str, str]] = {
    FusedMBConv: ("block", "use_res_connect"),
    MBConv: ("block", "use_res_connect"),
    MNASNetBlock: ("layers", "apply_residual"),
    MobileNetV2Block: ("conv", "use_res_connect"),
    MobileNetV3Block: ("block", "use_res_connect"),
}
"""The names of the layers of each class of blocks, and of whether there is a shortcut."""


class SequenceReader(ModelReader):
    """Layers that stand one after the other."""

    def __init__(self, name: str, model: nn.Module) -> None:
        super().__init__(name, model, inert=(StochasticDepth,))

    def layers(self, *modules: nn.Module) -> list[Layer]:
        """Return the layers of modules, each a convolution, its normalisation, and maybe an activation and a gate."""
        found: list[Layer] = []
        parts = [part for module in modules for part in _parts(module)]
        while parts:
            conv = self.conv(parts[0], depthwise=getattr(parts[0], "groups", 1) > 1)
            if len(parts) == 1:
                raise self.refusal(parts[0], "is not followed by a normalisation")
            norm, parts, activation, squeeze = self.norm(parts[1]), parts[2:], "none", None
            if parts and not isinstance(parts[0], nn.Conv2d | SqueezeExcitation):
                activation = self.activation(parts.pop(0))
            if parts and isinstance(parts[0], SqueezeExcitation):
                squeeze = self._squeeze(parts.pop(0))
            found.append(Layer(conv, norm, activation, squeeze))
        return found

    def _squeeze(self, module: Any) -> Squeeze:
        self.take(module.avgpool)
        reduce, restore = self.conv(module.fc1, bias=True), self.conv(module.fc2, bias=True)
        return Squeeze(reduce, restore, self.activation(module.activation), self.gate(module.scale_activation))

    def add_stage(self, found: Imported, blocks: Sequence[nn.Module]) -> None:
        """Add a stage of blocks."""
        found.add_stage()
        for block in blocks:
            if type(block) not in _BLOCKS:
                raise self.refusal(block)
            layers, shortcut = (getattr(block, name) for name in _BLOCKS[type(block)])
            found.add_block(*Layers(self, block, self.layers(layers), bool(shortcut)).block())


def read_mobilenet(name: str, model: MobileNetV2 | MobileNetV3, found: Imported) -> None:
    """Read a model whose blocks are listed without stages; MobileNet v3 has a layer before the classifier.

    A stage begins with each block that has no shortcut, because it changes the shape of what it takes.
    """
    reader = SequenceReader(name, model)
    stem, *blocks, last = model.features
    found.add_stem(*stem_of(reader, *reader.layers(stem)))
    stages: list[list[nn.Module]] = []
    for block in blocks:
        if not stages or not block.use_res_connect:
            stages.append([])
        stages[-1].append(block)
    for stage in stages:
        reader.add_stage(found, stage)
    if isinstance(model, MobileNetV3):
        reader.take(model.avgpool)
    _finish(reader, found, model.classifier, reader.layers(last))


def read_efficientnet(name: str, model: EfficientNet, found: Imported) -> None:
    """Read an EfficientNet, v1 or v2."""
    reader = SequenceReader(name, model)
    stem, *stages, last = model.features
    found.add_stem(*stem_of(reader, *reader.layers(stem)))
    for stage in stages:
        reader.add_stage(found, list(stage))
    reader.take(model.avgpool)
    _finish(reader, found, model.classifier, reader.layers(last))


def read_mnasnet(name: str, model: MNASNet, found: Imported) -> None:
    """Read a MNASNet: stem and first block are layers of the model itself, and so is what comes before pooling."""
    reader = SequenceReader(name, model)
    parts = list(model.layers)
    stacks = [place for place, part in enumerate(parts) if isinstance(part, nn.Sequential)]
    stem, *separable = reader.layers(*parts[: stacks[0]])
    found.add_stem(*stem_of(reader, stem))
    found.add_stage()
    found.add_block(*Layers(reader, parts[0], separable, shortcut=False).block())
    for place in stacks:
        reader.add_stage(found, list(parts[place]))
    _finish(reader, found, model.classifier, reader.layers(*parts[stacks[-1] + 1 :]))


def _finish(reader: SequenceReader, found: Imported, classifier: nn.Sequential, convs: Sequence[Layer]) -> None:
    """Add the head, a convolution and what the sequence is of; raises `UserError` for anything that was not read."""
    *before, last = classifier
    hidden = None
    if any(isinstance(each, nn.Linear) for each in before):
        linear = reader.linear(before[0])
        hidden = HiddenLayer(linear.weight, reader.activation(before[1]), linear.bias)
    (conv,) = convs
    found.add_head(*head_of(reader.linear(last), conv, hidden))
    reader.finish()


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """Yield what a sequence of sequences consists of."""
    if isinstance(module, nn.Sequential):
        for part in module:
            yield from _parts(part)
    else:
        yield module
