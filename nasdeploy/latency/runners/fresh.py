"""The program that measures in a process of its own on this machine: what boards run, without a directory to remove.

`python -m nasdeploy.latency.runners.fresh` answers on stdout the frames that come on stdin, and ends with them. It
imports NumPy and the runtime, no torch: it begins in a fraction of a second, and is what an application is like.
"""

import json
import os
import sys
from typing import Any

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.latency.runners.board import Frame, serve


def _main() -> None:
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    # What libraries print must not get between the answers.
    os.dup2(2, 1)

    def answer(fields: dict[str, Any]) -> None:
        answers.write(json.dumps(fields).encode() + b"\n")

    try:
        serve(_receive, answer)
    except (UserError, MemoryError) as error:
        answer({"error": one_line(str(error) or type(error).__name__)})


def _receive() -> Frame:
    line = sys.stdin.buffer.readline()
    if not line:
        # Nobody is there any more.
        raise SystemExit
    frame = json.loads(line)
    return frame, sys.stdin.buffer.read(frame["bytes"])


if __name__ == "__main__":
    _main()
