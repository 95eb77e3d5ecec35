"""The program that converts ONNX files to MNN's, in a process of its own: the converter may crash, or print anything.

It imports nothing but the converter, begins within 0.03 s, and converts while the next files are made. For each line on
stdin, a JSON list of two names and the converter's words, it writes what the converter prints to the first name, which
becomes the second one when that is done. It is run by its path, since the package around it imports PyTorch.
"""

import ctypes
import json
import os
import sys

import _tools


def main() -> None:
    """Convert what the lines say."""
    for line in sys.stdin:
        begun, ended, words = json.loads(line)
        said = os.open(begun, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.close(said)
        _tools.mnnconvert(words)
        # What is printed lies in the C library's buffer.
        ctypes.CDLL(None).fflush(None)
        os.rename(begun, ended)


if __name__ == "__main__":
    main()
