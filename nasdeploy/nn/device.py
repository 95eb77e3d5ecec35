"""Where networks are computed in PyTorch; what latency is measured on is another matter (`runtimes.device`)."""

import torch


def compute_device() -> torch.device:
    """A GPU if PyTorch finds one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
