"""Imports every file of a folder as a published supernet, in a process that may not take much memory.

The supernet is one of AlphaNet's layout, and of a space small enough for hundreds of files. What each file was told is
written as JSON.
"""

import json
import resource
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.importers.layouts import ALPHANET, PUBLISHED
from nasdeploy.spaces import load_space
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.workflows.start import ImportRequest, import_supernet
from tests.importers.hostile_child import taken

SMALL = replace(ALPHANET, recipes={"digits": "alphanet-imagenet"})
CONV, HEAD, NORM = "first_conv.conv.conv", "classifier.linear.linear", "first_conv.bn.bn"


def small_state() -> dict[str, Tensor]:
    """Random weights of the small supernet, by the names of the layout."""
    torch.manual_seed(0)
    own = Supernet(load_space("digits")).state_dict()
    return {name: own[key] for key, name in SMALL.names(own).items()}


def main() -> None:
    """Import every file of a folder; the address space grows by so many bytes at most."""
    folder, told, more = Path(sys.argv[1]), {}, int(sys.argv[3])
    PUBLISHED["alphanet"] = SMALL
    resource.setrlimit(resource.RLIMIT_AS, (taken() + more,) * 2)
    for path in sorted(folder.iterdir()):
        try:
            import_supernet(ImportRequest("alphanet", path, Path("runs") / path.stem), Progress(quiet=True))
            told[path.name] = "accepted"
        except UserError as error:
            told[path.name] = str(error)
    runs = [path.name for path in Path("runs").iterdir()]
    Path(sys.argv[2]).write_text(json.dumps({"told": told, "runs": runs}), encoding="utf-8")
