"""The same networks put together from torch's own modules, with the same weights: an independent opinion."""

import torch
from torch import Tensor, nn

from nasdeploy.blocks.heads import ClassifierHead, PoolHead, Stem
from nasdeploy.blocks.inverted_residual import MBConv
from nasdeploy.nn.heads import ClassifierHeadWeights, PoolHeadWeights, StemWeights
from nasdeploy.nn.inverted_residual import InvertedResidualWeights
from nasdeploy.nn.network import Network, StaticBlock

ACTIVATION = {"swish": nn.SiLU, "relu": nn.ReLU, "hswish": nn.Hardswish}


class Squeeze(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = x * self.gate(x)
        return gated


class Residual(nn.Module):
    """The sum of two branches."""

    def __init__(self, main: nn.Sequential, shortcut: nn.Sequential) -> None:
        super().__init__()
        self.main, self.shortcut = main, shortcut

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.main(x) + self.shortcut(x)
        return total


def convolution(inside: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(out)]


def stem(block: Stem, weights: StemWeights) -> nn.Module:
    made = nn.Sequential(
        *convolution(block.in_channels, block.out_channels, block.kernel_size, block.stride),
        ACTIVATION[block.activation](),
    )
    return with_state(made, weights.conv, weights.norm)


def mbconv(block: MBConv, weights: InvertedResidualWeights) -> nn.Module:
    inside, out, mid = block.in_channels, block.out_channels, block.mid_channels
    activation = ACTIVATION[block.activation]
    layers: list[nn.Module] = []
    if block.expand_ratio != 1:
        layers += [*convolution(inside, mid, 1), activation()]
    layers += [*convolution(mid, mid, block.kernel_size, block.stride, groups=mid), activation()]
    if block.se:
        layers.append(Squeeze(mid, block.se_channels))
    layers += convolution(mid, out, 1)
    shortcut: list[nn.Module] = []
    if block.stride > 1:
        shortcut.append(nn.AvgPool2d(block.stride, padding=0 if block.side % 2 == 0 else 1, count_include_pad=True))
    if inside != out:
        shortcut.append(nn.Conv2d(inside, out, 1, bias=False))
    made = Residual(nn.Sequential(*layers), nn.Sequential(*shortcut))
    w = weights
    return with_state(
        made,
        *([w.expand, w.expand_norm] if block.expand_ratio != 1 else []),
        *(w.depthwise, w.depthwise_norm),
        *([w.reduce, w.restore] if block.se else []),
        *(w.project, w.project_norm),
        *([w.shortcut] if inside != out else []),
    )


def head(block: PoolHead, weights: PoolHeadWeights) -> nn.Module:
    activation = ACTIVATION[block.activation]
    made = nn.Sequential(
        *convolution(block.in_channels, block.mid_channels, 1),
        activation(),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(block.mid_channels, block.out_channels, 1, bias=False),
        activation(),
        nn.Flatten(),
        nn.Linear(block.out_channels, block.classes),
    )
    return with_state(made, weights.expand, weights.expand_norm, weights.project, weights.classifier)


def classifier_head(block: ClassifierHead, weights: ClassifierHeadWeights) -> nn.Module:
    """A head with a convolution and no hidden layer."""
    made = nn.Sequential(
        *convolution(block.in_channels, block.conv_channels, 1),
        ACTIVATION[block.activation](),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(block.conv_channels, block.classes),
    )
    return with_state(made, weights.conv, weights.conv_norm, weights.classifier)


def with_state(made: nn.Module, *sources: nn.Module | None) -> nn.Module:
    """`made` with copies of the sources' tensors, layer by layer."""
    layers = [m for m in made.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]
    for layer, source in zip(layers, sources, strict=True):
        assert source is not None
        layer.load_state_dict(source.state_dict())
    return made


def reference(module: StaticBlock) -> nn.Module:
    """The block of `module` from torch's modules."""
    block, weights = module.block, module.weights
    if isinstance(block, Stem):
        assert isinstance(weights, StemWeights)
        return stem(block, weights)
    if isinstance(block, MBConv):
        assert isinstance(weights, InvertedResidualWeights)
        return mbconv(block, weights)
    if isinstance(block, ClassifierHead):
        assert isinstance(weights, ClassifierHeadWeights)
        return classifier_head(block, weights)
    assert isinstance(block, PoolHead)
    assert isinstance(weights, PoolHeadWeights)
    return head(block, weights)


def reference_network(network: Network) -> nn.Sequential:
    """A chain of blocks from torch's modules, in float64."""
    return nn.Sequential(*(reference(network.block(step.name)) for step in network.plan)).double()


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Random scales, shifts and statistics: fresh ones hide mistakes, the last scale of a block being zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.weight.uniform_(0.5, 1.5, generator=generator)
                norm.bias.normal_(0, 0.3, generator=generator)
                norm.running_mean.normal_(0, 0.3, generator=generator)
                norm.running_var.uniform_(0.5, 1.5, generator=generator)
