"""Reads every file of a folder as weights, in a process that may not take much memory; writes what each was told."""

import json
import resource
import sys
from pathlib import Path

from nasdeploy.core.errors import UserError
from nasdeploy.importers.weights import load_into, read_state_dict
from tests.importers.hostile import network


def taken() -> int:
    """The bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def main() -> None:
    """Refuse every file of a folder; the address space grows by so many bytes at most."""
    folder, told, more = Path(sys.argv[1]), {}, int(sys.argv[3])
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    resource.setrlimit(resource.RLIMIT_AS, (taken() + more,) * 2)
    for path in sorted(folder.iterdir()):
        try:
            load_into(model, read_state_dict(path), "timm:net")
            told[path.name] = "accepted"
        except UserError as error:
            told[path.name] = str(error)
    unchanged = all(bool((before[name] == tensor).all()) for name, tensor in model.state_dict().items())
    Path(sys.argv[2]).write_text(json.dumps({"told": told, "unchanged": unchanged}), encoding="utf-8")
