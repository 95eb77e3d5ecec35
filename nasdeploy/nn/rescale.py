"""Rescaling of images to an architecture's resolution (AlphaNet, appendix B)."""

import torch.nn.functional as F
from torch import Tensor


def rescale(x: Tensor, side: int) -> Tensor:
    """Images `[N, 3, S, S]` at `side`: bicubic, corners not aligned, no antialiasing; unchanged where S is `side`."""
    if x.shape[-1] == side and x.shape[-2] == side:
        return x
    return F.interpolate(x, size=(side, side), mode="bicubic", align_corners=False)
