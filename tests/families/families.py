"""Weights and computation of the writer's blocks. Widths are leading channels."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from nasdeploy.core.plan import Block
from nasdeploy.core.space import Sharing
from nasdeploy.nn import FAMILIES, Family
from nasdeploy.nn.functional import Context, Middle, slice_matrix
from tests.families.blocks import Attend, Embed, Join, Lift, Mix, Summary, Unembed


class Scale(NamedTuple):
    """Scale and shift of a layer normalisation, `[width]` each."""

    weight: Tensor
    bias: Tensor


class Affine(NamedTuple):
    """A linear layer, `[outside, inside]` and `[outside]`."""

    weight: Tensor
    bias: Tensor


def scale_of(norm: nn.LayerNorm, width: int) -> Scale:
    return Scale(norm.weight[:width], norm.bias[:width])


def affine_of(layer: nn.Linear, outside: int, inside: int) -> Affine:
    return Affine(slice_matrix(layer.weight, outside, inside), layer.bias[:outside])


def normalised(x: Tensor, scale: Scale) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), scale.weight, scale.bias)


def widest(blocks: Sequence[Any]) -> int:
    return int(max(block.width for block in blocks))


class LayerNormFamily:
    """What families of the writer have in common: no running statistics."""

    calibrated = False
    rules: tuple[type[Sharing], ...] = (Sharing,)

    @staticmethod
    def middles(weights: Any) -> tuple[Middle, ...]:
        return ()

    @staticmethod
    def randomise(weights: nn.Module, draw: Generator) -> None:
        for norm in weights.modules():
            if isinstance(norm, nn.LayerNorm):
                nn.init.uniform_(norm.weight, 0.5, 1.5, generator=draw)
                nn.init.normal_(norm.bias, 0.0, 0.1, generator=draw)


class LiftWeights(nn.Module):
    def __init__(self, blocks: Sequence[Lift], sharing: Sharing) -> None:
        super().__init__()
        self.linear = nn.Linear(blocks[0].inside, widest(blocks))


class LiftFamily(LayerNormFamily):
    cover = LiftWeights

    @staticmethod
    def slice(weights: LiftWeights, block: Lift) -> Affine:
        return affine_of(weights.linear, block.width, block.inside)

    @staticmethod
    def forward(block: Lift, tensors: Affine, x: Tensor, *, context: Context) -> Tensor:
        return F.linear(x, *tensors)


class MixWeights(nn.Module):
    def __init__(self, blocks: Sequence[Mix], sharing: Sharing) -> None:
        super().__init__()
        width, hidden = widest(blocks), max(block.hidden for block in blocks)
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)


class MixTensors(NamedTuple):
    norm: Scale
    up: Affine
    down: Affine


class MixFamily(LayerNormFamily):
    cover = MixWeights

    @staticmethod
    def slice(weights: MixWeights, block: Mix) -> MixTensors:
        width, hidden = block.width, block.hidden
        up, down = affine_of(weights.up, hidden, width), affine_of(weights.down, width, hidden)
        return MixTensors(scale_of(weights.norm, width), up, down)

    @staticmethod
    def middles(weights: MixWeights) -> tuple[Middle, ...]:
        tensors = ((weights.up.weight, 0), (weights.up.bias, 0), (weights.down.weight, 1))
        return (Middle(tensors, weights.down.weight, channels_of=attrgetter("hidden")),)

    @staticmethod
    def forward(block: Mix, tensors: MixTensors, x: Tensor, *, context: Context) -> Tensor:
        branch = F.linear(F.gelu(F.linear(normalised(x, tensors.norm), *tensors.up)), *tensors.down)
        if context.drop:
            branch = F.dropout(branch, context.drop)
        return x + branch


class NormWeights(nn.Module):
    def __init__(self, blocks: Sequence[Summary | Join], sharing: Sharing) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(widest(blocks))


class SummaryFamily(LayerNormFamily):
    cover = NormWeights

    @staticmethod
    def slice(weights: NormWeights, block: Summary) -> Scale:
        return scale_of(weights.norm, block.width)

    @staticmethod
    def forward(block: Summary, tensors: Scale, x: Tensor, *, context: Context) -> Tensor:
        return normalised(x, tensors).mean(1)


class JoinFamily(LayerNormFamily):
    cover = NormWeights

    @staticmethod
    def slice(weights: NormWeights, block: Join) -> Scale:
        return scale_of(weights.norm, block.width)

    @staticmethod
    def forward(block: Join, tensors: Scale, x: Tensor, summary: Tensor, *, context: Context) -> Tensor:
        return normalised(x + summary.reshape(-1, 1, block.width), tensors)


class EmbedWeights(nn.Module):
    def __init__(self, blocks: Sequence[Embed | Unembed], sharing: Sharing) -> None:
        super().__init__()
        self.table = nn.Embedding(blocks[0].vocabulary, widest(blocks))


class EmbedFamily(LayerNormFamily):
    cover = EmbedWeights

    @staticmethod
    def slice(weights: EmbedWeights, block: Embed) -> tuple[Tensor]:
        return (slice_matrix(weights.table.weight, block.vocabulary, block.width),)

    @staticmethod
    def forward(block: Embed, tensors: tuple[Tensor], tokens: Tensor, *, context: Context) -> Tensor:
        return F.embedding(tokens, *tensors)


class UnembedFamily(LayerNormFamily):
    cover = EmbedWeights

    @staticmethod
    def slice(weights: EmbedWeights, block: Unembed) -> tuple[Tensor]:
        return (slice_matrix(weights.table.weight, block.vocabulary, block.width),)

    @staticmethod
    def forward(block: Unembed, tensors: tuple[Tensor], x: Tensor, *, context: Context) -> Tensor:
        return F.linear(x[:, -1], *tensors)


class AttendWeights(nn.Module):
    def __init__(self, blocks: Sequence[Attend], sharing: Sharing) -> None:
        super().__init__()
        width = widest(blocks)
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))


class AttendTensors(NamedTuple):
    norm: Scale
    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor


class AttendFamily(LayerNormFamily):
    cover = AttendWeights

    @staticmethod
    def slice(weights: AttendWeights, block: Attend) -> AttendTensors:
        layers = (weights.query, weights.key, weights.value, weights.out)
        matrices = (slice_matrix(layer.weight, block.width, block.width) for layer in layers)
        return AttendTensors(scale_of(weights.norm, block.width), *matrices)

    @staticmethod
    def forward(block: Attend, tensors: AttendTensors, x: Tensor, memory: Tensor, *, context: Context) -> Tensor:
        query = F.linear(normalised(x, tensors.norm), tensors.query) * block.width**-0.5
        key, value = F.linear(memory, tensors.key), F.linear(memory, tensors.value)
        attention = F.softmax(torch.matmul(query, key.transpose(1, 2)), -1)
        return x + F.linear(torch.matmul(attention, value), tensors.out)


WRITER: dict[type[Block], Family] = {
    Lift: LiftFamily(),
    Mix: MixFamily(),
    Summary: SummaryFamily(),
    Embed: EmbedFamily(),
    Join: JoinFamily(),
    Attend: AttendFamily(),
    Unembed: UnembedFamily(),
}


def register() -> None:
    """Make the writer's blocks known to `nasdeploy.nn`, for the rest of the process."""
    FAMILIES.update(WRITER)


@contextmanager
def registered() -> Iterator[None]:
    """The same for a while."""
    register()
    try:
        yield
    finally:
        for block in WRITER:
            FAMILIES.pop(block, None)
