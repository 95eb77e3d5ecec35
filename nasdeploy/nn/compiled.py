"""Blocks compiled by `torch.compile`, one graph for each.

Every random sub-network is another graph as a whole, but all are made of a space's blocks, a few hundred. Weights are
sliced outside of the graphs, so gradients reach the supernet in the same way.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.core.plan import Block
from nasdeploy.nn import Forward, TensorsOf, eager
from nasdeploy.nn.functional import Context

_MOST_VARIANTS = 64
"""Graphs of one block: for each drop-connect rate, memory layout, and with and without gradients."""


def compiled(backend: str | Callable[..., Any] = "inductor") -> Callable[[Block], Forward]:
    """Compiles a block when it is first computed, which takes seconds; inductor keeps graphs on disk for other runs.

    Computing raises `UserError` where the backend cannot generate code: inductor needs a C++ compiler on a CPU, and
    Triton on a GPU.
    """

    @cache
    def forward_of(block: Block) -> Forward:
        computed = eager(block)

        def forward(tensors: TensorsOf, inputs: tuple[Tensor, ...], context: Context) -> Tensor:
            return computed(tensors, *inputs, context=context)

        # Isolated: the blocks share this code, and would share its limit on recompilations.
        made = torch.compile(  # type: ignore[call-overload]
            forward,
            fullgraph=True,
            dynamic=False,
            backend=backend,
            isolate_recompiles=True,
            recompile_limit=_MOST_VARIANTS,
        )

        def checked(tensors: TensorsOf, *inputs: Tensor, context: Context) -> Tensor:
            try:
                result: Tensor = made(tensors, inputs, context)
                return result
            except BackendCompilerFailed as error:
                raise UserError(
                    f"train.compile: {block.key} cannot be compiled ({one_line(error)}); set it to false"
                ) from None

        return checked

    return forward_of
