"""Operations of blocks in Triton, for NVIDIA GPUs, and where they are used.

In channels-last layout, in which a GPU is fast with fewer bits than float32, cuDNN makes a depthwise convolution ready
for each new shape: on an H200 for 0.4 to 1.8 s, where a supernet has hundreds of shapes. PyTorch's normalisation and
activation take 101 of the 231 ms of a step of `alphanet` there, and these kernels 32. They are compiled once for a data
type, which later processes find on disk.

Python takes longer to start a kernel of Triton than one of PyTorch. Where the host starts operations one by one, only
large images are worth that; where a recorded graph starts them, all are.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from nasdeploy.core.errors import one_line

FEWEST = 1 << 24
"""The numbers of images from which on a kernel pays that the host starts, where PyTorch has one that needs no
preparation."""
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_everywhere = False


def serve(x: Tensor) -> bool:
    """Return whether kernels compute with images `[N, C, H, W]`: on a GPU and channels-last, unless traced."""
    if not _computed_on_gpu(x) or x.ndim != 4 or x.dtype not in _DTYPES:
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous() and _work(x.device, x.dtype)


def pay(x: Tensor) -> bool:
    """Return whether kernels `serve` images, and are worth the time to start them."""
    return _computed_on_gpu(x) and (_everywhere or x.numel() >= FEWEST) and serve(x)


def _computed_on_gpu(x: Tensor) -> bool:
    """Return whether a GPU computes with a tensor now. What is traced or exported may have no size to ask for."""
    return x.is_cuda and not torch.compiler.is_compiling() and torch._C._get_tracing_state() is None


@contextmanager
def everywhere() -> Iterator[None]:
    """Let all kernels pay meanwhile, since starting them costs nothing in a recorded graph."""
    global _everywhere
    before, _everywhere = _everywhere, True
    try:
        yield
    finally:
        _everywhere = before


@cache
def _work(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the kernels can be compiled and run there, and compute the same as PyTorch."""
    if find_spec("triton") is None:
        return False
    try:
        from nasdeploy.nn.kernels import depthwise, normalisation, squeeze
        from nasdeploy.nn.kernels.launching import compiling
        from nasdeploy.nn.kernels.trial import agree

        with torch.cuda.device(device), compiling():
            for each in (depthwise, normalisation, squeeze):
                each.launch_all(dtype, device)
        found, reason = agree(device, dtype), "they compute something else than PyTorch"
    except Exception as error:
        # Triton's errors have no class in common: there may be no C compiler, or a GPU that it does not know.
        found, reason = False, one_line(error)
    if not found:
        warnings.warn(f"kernels in Triton are not used, without which a GPU is slower: {reason}", stacklevel=2)
    return found
