"""Blocks compiled by `torch.compile`, one graph for each.

Every random sub-network is another graph as a whole, but all are made of a space's blocks, a few hundred. Weights are
sliced outside of the graphs, so gradients reach the supernet in the same way.
"""

from collections.abc import Callable
from functools import cache, partial
from inspect import signature
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed

from nasdeploy.core.errors import one_line
from nasdeploy.core.plan import Block
from nasdeploy.nn import Forward, TensorsOf, eager
from nasdeploy.nn.functional import Context

_MOST_VARIANTS = 64
"""Graphs of one block: for each drop-connect rate, memory layout, and with and without gradients."""


_ISOLATING = "isolate_recompiles" in signature(torch.compile).parameters
"""Whether this PyTorch compiles functions that share their code apart; 2.11 does not."""


def _apart(compile_function: Callable[..., Any], forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compile a function apart from others that share its code, since they would share its limit on recompilations.

    An older PyTorch counts them by the code object, of which the function therefore gets one of its own, and reads the
    limit from its configuration.
    """
    if _ISOLATING:
        made: Callable[..., Tensor] = compile_function(forward, isolate_recompiles=True, recompile_limit=_MOST_VARIANTS)
        return made
    assert isinstance(forward, FunctionType)
    own = FunctionType(forward.__code__.replace(), forward.__globals__, closure=forward.__closure__)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_VARIANTS)
    alone: Callable[..., Tensor] = compile_function(own)
    return alone


def compiled(say: Callable[[str], None], backend: str | Callable[..., Any] = "inductor") -> Callable[[Block], Forward]:
    """Compiles a block when it is first computed, which takes seconds; inductor keeps graphs on disk for other runs.

    Where the backend cannot generate code, `say` is told once, and all blocks are computed operation by
    operation from then on: inductor needs a C++ compiler on a CPU, and Triton on a GPU.
    """
    works = True

    @cache
    def forward_of(block: Block) -> Forward:
        computed = eager(block)

        def forward(tensors: TensorsOf, inputs: tuple[Tensor, ...], context: Context) -> Tensor:
            return computed(tensors, *inputs, context=context)

        made = _apart(partial(torch.compile, fullgraph=True, dynamic=False, backend=backend), forward)

        def tried(tensors: TensorsOf, *inputs: Tensor, context: Context) -> Tensor:
            nonlocal works
            if works:
                try:
                    result: Tensor = made(tensors, inputs, context)
                    return result
                except BackendCompilerFailed as error:
                    works = False
                    say(
                        f"train.compile: {block.key} cannot be compiled ({one_line(error)}); blocks are computed "
                        "operation by operation"
                    )
            return computed(tensors, *inputs, context=context)

        return tried

    return forward_of
