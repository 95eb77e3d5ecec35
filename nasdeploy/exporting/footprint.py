"""What a model takes to start: time and memory of a process of its own, which nothing else has warmed up.

`python -m nasdeploy.exporting.footprint FORMAT DEVICE FILE...` is that process; torch-free unless the format is not.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from nasdeploy.core.errors import one_line
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.exporting.record import Disagreement, Footprint
from nasdeploy.runtimes.device import Device

_LONGEST_S = 600


def measure_footprint(name: str, files: Sequence[Path], device: Device) -> Footprint:
    """Measure the model of format `name`, a file for each part; raises `Disagreement` if its process fails."""
    command = [sys.executable, "-P", "-m", __name__, name, device.model_dump_json(), *map(str, files)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_LONGEST_S)
    except subprocess.SubprocessError as error:
        said = (getattr(error, "stderr", None) or "").splitlines()[-1:]
        raise Disagreement(
            f"a process that opens nothing but the file fails ({one_line(said[0] if said else error)})"
        ) from None
    return Footprint.model_validate_json(done.stdout.splitlines()[-1])


def _start(name: str, files: Sequence[Path], device: Device) -> Footprint:
    start = perf_counter()
    sessions = [FORMATS[name].open(path, device) for path in files]
    for session in sessions:
        session.call()
    return Footprint(load_s=perf_counter() - start, peak_bytes=_peak())


def _peak() -> int:
    """Most bytes resident so far. Not by getrusage: a process inherits its parent's there."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    form, target, *paths = sys.argv[1:]
    print(_start(form, [Path(path) for path in paths], Device.model_validate_json(target)).model_dump_json())
