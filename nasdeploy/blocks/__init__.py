"""Blocks with concrete shapes, and the names that recipes have for those that existing networks are made of."""

from nasdeploy.blocks.convolutions import ConvBlock, FusedInvertedResidual
from nasdeploy.blocks.heads import ClassifierHead, Stem
from nasdeploy.blocks.inverted_residual import InvertedResidual
from nasdeploy.blocks.residual import BasicBlock, Bottleneck, PoolingStem
from nasdeploy.blocks.universal_residual import UniversalInvertedResidual
from nasdeploy.core.plan import Block

BLOCKS: dict[str, type[Block]] = {
    "stem": Stem,
    "inverted-residual": InvertedResidual,
    "fused-inverted-residual": FusedInvertedResidual,
    "universal-inverted-residual": UniversalInvertedResidual,
    "convolution": ConvBlock,
    "pooling-stem": PoolingStem,
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
    "classifier": ClassifierHead,
}
"""The class of each kind of block in the table of an existing network; a new one also needs a family."""
