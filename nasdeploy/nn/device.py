"""Where and how networks are computed in PyTorch; what latency is measured on is another matter (`runtimes.device`)."""

import torch


def compute_device() -> torch.device:
    """A GPU if PyTorch finds one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def layout_for(device: torch.device) -> torch.memory_format:
    """The layout of weights and images in which networks that are computed a few times each take the least time.

    On a CPU channels-last takes about 0.7 of the time. On a GPU cuDNN then plans each shape of a convolution that it
    has not met before, for milliseconds, and most networks of a search have such shapes: on an H200 recalibrating
    one of `alphanet` took 2.0 s at first instead of 0.13 s, and 0.07 s instead of 0.09 s from then on.
    """
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format
