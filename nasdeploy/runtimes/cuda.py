"""What runtimes on NVIDIA GPUs have in common."""

import ctypes

TF32 = "tf32"
"""The option that lets fp32 be computed as TF32, which rounds factors to 10 bits. Off, so that fp32 is fp32."""

_DRIVER = "libcuda.so.1"
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""
_LONGEST_NAME = 256


def missing_gpu() -> str | None:
    """Say why this machine has no GPU that can be used, with what to do; None if it has one."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return "there is no NVIDIA driver; install one, so that nvidia-smi lists the GPU"
    if driver.cuInit(0) != 0:
        return "the NVIDIA driver finds no GPU; see what nvidia-smi says"
    return None


def gpu() -> str:
    """Return the first GPU and its driver, e.g. `NVIDIA GeForce RTX 4090, driver for CUDA 13.0`: they matter."""
    driver = ctypes.CDLL(_DRIVER)
    device, version, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(_LONGEST_NAME)
    driver.cuInit(0)
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceGetName(name, _LONGEST_NAME, device)
    driver.cuDriverGetVersion(ctypes.byref(version))
    # 13000 is 13.0, 12080 is 12.8.
    return f"{name.value.decode()}, driver for CUDA {version.value // 1000}.{version.value % 1000 // 10}"


def compute_capability() -> str:
    """Return the compute capability of the first GPU, e.g. `SM89`."""
    driver = ctypes.CDLL(_DRIVER)
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    driver.cuInit(0)
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
    return f"SM{major.value}{minor.value}"
