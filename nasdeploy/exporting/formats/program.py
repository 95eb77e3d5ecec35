"""What ExecuTorch does in a process of its own: `python -m nasdeploy.exporting.formats.program COMMAND FILE...`

`convert FILE.pt2 FILE.pte` converts a program of torch.export; `describe FILE.pte` prints the inputs and outputs of a
program as JSON, then runs it.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.runtimes.executorch import ExecuTorch
from nasdeploy.runtimes.runtime import Execution


def convert(program: Path, path: Path) -> None:
    """Hand to XNNPACK whatever it takes; the rest is run by ExecuTorch's portable kernels."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with program.open("rb") as file:
        exported = torch.export.load(file)
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


def describe(path: Path) -> None:
    """Also if it then fails, or ends the process, the description is out."""
    session = ExecuTorch().open(path, Execution("here", "executorch"))
    print(json.dumps([[asdict(each) for each in side] for side in (session.given, session.results)]), flush=True)
    session.call()


if __name__ == "__main__":
    command, *files = sys.argv[1:]
    try:
        convert(*map(Path, files)) if command == "convert" else describe(*map(Path, files))
    except UserError as error:
        sys.exit(str(error))
    # The exporter and the runtime raise whatever they like; the last line is what is read.
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {one_line(error)}")
