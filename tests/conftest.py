"""What all tests share: reproducible property tests, in an interpreter that does not import torch for it."""

import gc
import os

import pytest
from hypothesis import settings

# Some tests import ONNX Runtime before nasdeploy, which tells it to report nothing.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

settings.register_profile("nasdeploy", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("nasdeploy")


def _not_waiting(descriptor: int) -> None:
    """Take the place of `os.fsync`, which takes 4 ms each time: no test loses power."""


os.fsync = _not_waiting


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave out of garbage collection what was imported: walking through it takes a twentieth of the tests' time."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
