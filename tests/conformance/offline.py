"""All that is done with runtimes on this machine: `python -m tests.conformance.offline FOLDER RUNTIME...`.

With each a network is exported in its formats, in the highest and the lowest precision, with proof, and run by the
bundle's own program; another is converted, measured and compared. Attempts at a network are written down in
`FOLDER/RUNTIME.attempts`; when a runtime has done all, its name is printed.
"""

import os
import subprocess
import sys
from pathlib import Path

from nasdeploy.convert.measured import CONVERTERS
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.formats import FORMATS, plan_jobs
from nasdeploy.latency.runners import in_turn
from nasdeploy.runtimes import RUNTIMES
from nasdeploy.runtimes.device import Device
from nasdeploy.workflows.compared_network import network_of
from nasdeploy.workflows.runtimes import compare
from tests.exporting.models import exporter
from tests.hasty import HASTY
from tests.small_spaces import one_stage
from tests.watched import ATTEMPTS

SPACE = one_stage()


def is_made_for(name: str, device: Device) -> bool:
    """Whether this machine writes a format, which the device's runtime is the first one to open."""
    form = FORMATS[name]
    if form.missing() or form.obstacle() or form.not_run(()):
        return False
    return device.runtime == next(each for each in RUNTIMES if form.runtime(Device(name="any", runtime=each)) == each)


def export_all(device: Device, root: Path) -> None:
    for name, form in FORMATS.items():
        if not is_made_for(name, device):
            continue
        for precision in sorted({form.precisions[0], form.precisions[-1]}):
            bundle = root / f"{name}-{precision}"
            exporter(root, recalibrate=False).export(SPACE.named["t0"], bundle, plan_jobs([name], device, precision))
            if form.package:
                picture = min((root / "images/test").rglob("*.png"))
                command = [sys.executable, "predict.py", str(picture)]
                subprocess.run(command, cwd=bundle, stdout=subprocess.DEVNULL, check=True)


def compare_another(device: Device) -> None:
    if RUNTIMES[device.runtime].form in CONVERTERS:
        network = network_of(SPACE.smallest(), SPACE)
        (found,) = compare(network, [device], Progress(quiet=True), HASTY).results
        assert (found.reason, found.problem) == (None, None)


def main() -> None:
    vars(in_turn)["PROCESSES"] = 1
    root = Path(sys.argv[1])
    for name in sys.argv[2:]:
        attempts = root / f"{name}.attempts"
        attempts.touch()
        os.environ[ATTEMPTS] = str(attempts)
        device = Device(name="here", runtime=name)
        export_all(device, root / name)
        compare_another(device)
        print(name, flush=True)


if __name__ == "__main__":
    main()
