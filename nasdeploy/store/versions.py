"""Versions of what a result depends on, for manifests; read from package metadata, so nothing is imported."""

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("nasdeploy", "torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime", "numpy", "scikit-learn")


def installed_versions() -> dict[str, str]:
    """Version by package name, with Python's; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
