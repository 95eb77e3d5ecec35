"""Launching kernels, or only compiling them: many at the same time, since each takes a second or two the first time.

What is compiled is kept on disk by Triton, so that it happens once on a machine.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
import triton
from torch import Tensor

_compiling = False
_known: dict[tuple[Any, ...], Any] = {}


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    kind: tuple[Any, ...],
    arguments: tuple[Any, ...],
    constants: tuple[Any, ...],
    **options: int | None,
) -> None:
    """Start as many programs of a kernel as the grid says.

    A kernel is compiled for its constants and for a `kind`: the device, and the data types of its tensors. What is
    compiled is kept here, since Triton takes longer to look for it than to launch it. It fits: sizes are not
    specialised on, and tensors begin at multiples of 16 bytes.
    """
    key = (id(kernel), kind, constants)
    compiled = _known.get(key)
    if _compiling:
        kernel.warmup(*arguments, *constants, grid=grid, **options)
    elif compiled is not None:
        # What is compiled takes grids of three dimensions only.
        compiled[(*grid, 1, 1)[:3]](*arguments, *constants)
    else:
        compiled = kernel[grid](*arguments, *constants, **options)
        # Nothing is compiled where kernels are interpreted.
        if compiled is not None:
            _known[key] = compiled


@contextmanager
def compiling() -> Iterator[None]:
    """Have launches only compile meanwhile, in threads; in the end all have done so."""
    global _compiling
    with ThreadPoolExecutor() as threads, triton.AsyncCompileMode(threads):
        _compiling = True
        try:
            yield
        finally:
            _compiling = False


VECTOR = 8
"""Channels that a thread takes at once, 16 bytes of 16 bits each, where they come in so many."""


def vector(channels: int) -> int:
    """Return how many neighbouring channels a thread takes at once."""
    return VECTOR if channels % VECTOR == 0 else 1


def processors(device: torch.device) -> int:
    """Return the number of a GPU's multiprocessors; 1 where kernels are interpreted."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def aligned(x: Tensor) -> Tensor:
    """Return images in channels-last layout that begin where 16 bytes can be loaded at once: themselves, or a copy."""
    x = x.contiguous(memory_format=torch.channels_last)
    return x.clone() if x.data_ptr() % 16 else x
