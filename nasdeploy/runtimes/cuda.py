"""What runtimes on NVIDIA GPUs have in common."""

import ctypes

TF32 = "tf32"
"""Option that lets fp32 be computed as TF32, which rounds factors to 10 bits. Off, so that fp32 is fp32."""

_DRIVER = "libcuda.so.1"


def missing_gpu() -> str | None:
    """Why this machine has no GPU that can be used, with what to do; None if it has one."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return "there is no NVIDIA driver; install one, so that nvidia-smi lists the GPU"
    if driver.cuInit(0) != 0:
        return "the NVIDIA driver finds no GPU; see what nvidia-smi says"
    return None
