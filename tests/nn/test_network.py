"""How PyTorch is made to compute here."""

import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import torch
from nasdeploy.nn.network import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
def fill():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(40 << 20, dtype=torch.uint8).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

# An aligned piece of memory may need a little more than the one before left, so that a few are new at first.
found = [fill() for _ in range(40)]
print(sum(found[20:]))
"""


def page_faults(way: str) -> int:
    """The pages that a process has to be given for tensors of 40 MiB, one after the other, after the first twenty."""
    command = [sys.executable, "-c", _FAULTS, way]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_memory_of_a_tensor_that_is_gone_is_used_again() -> None:
    given_back = page_faults("given-back")
    if not given_back:
        pytest.skip("this system counts no page faults, or its allocator gives nothing back")
    assert page_faults("kept") < 0.1 * given_back
