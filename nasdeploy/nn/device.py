"""Where and how networks are computed in PyTorch; what latency is measured on is another matter (`runtimes.device`)."""

import torch

from nasdeploy.core.cpus import parallelism


def compute_device() -> torch.device:
    """Return a GPU if PyTorch finds one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def set_threads(given: int | None) -> None:
    """Have PyTorch compute with `given` threads; by default with no more than may work at the same time.

    It counts the processors that this process is bound to, and knows no quota: threads beyond it use it up early in
    each period, and then all of them stand still.
    """
    threads = min(torch.get_num_threads(), parallelism()) if given is None else given
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)


def layout_for(device: torch.device) -> torch.memory_format:
    """Return the layout of weights and images in which networks that are computed a few times each take the least time.

    On a CPU channels-last takes about 0.7 of the time. On a GPU cuDNN then plans each shape of a convolution that it
    has not met before, for milliseconds, and most networks of a search have such shapes: on an H200 recalibrating
    one of `alphanet` took 2.0 s at first instead of 0.13 s, and 0.07 s instead of 0.09 s from then on.
    """
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format
