"""The program that converts ONNX files to MNN's, in a process of its own: the converter may crash, or print anything.

It imports nothing but the converter, begins within 0.03 s, and converts while the next files are made. Each line on
stdin is a JSON list of three names and the converter's words. The first name is converted and removed; what the
converter prints is written to the second name, which becomes the third one when that is done. The program is run by its
path, since the package around it imports PyTorch.
"""

import ctypes
import json
import os
import sys

import _tools


def main() -> None:
    """Convert what the lines say."""
    for line in sys.stdin:
        source, begun, ended, words = json.loads(line)
        said = os.open(begun, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.close(said)
        _tools.mnnconvert(words)
        # What is printed lies in the C library's buffer.
        ctypes.CDLL(None).fflush(None)
        # So many may be large that the disk would be full of them, or busy with writing them.
        os.unlink(source)
        os.rename(begun, ended)


if __name__ == "__main__":
    main()
