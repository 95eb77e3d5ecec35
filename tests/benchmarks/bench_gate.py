"""How long an export to ONNX takes with everything that proves it: a6 of the AlphaNet space, without recalibration.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.bench_gate [--arch a6] [--images 1000]

Random weights with randomised batch normalisation, and test images of noise in files, with AlphaNet's preprocessing.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch

from nasdeploy.core.progress import Progress
from nasdeploy.data.datasets import open_data
from nasdeploy.data.settings import AugmentSettings, DataSettings
from nasdeploy.exporting.export import Exporter
from nasdeploy.exporting.formats import plan_jobs
from nasdeploy.exporting.manifest import ExportOrigin
from nasdeploy.exporting.proof import ExportTarget
from nasdeploy.runtimes.device import load_device
from nasdeploy.spaces import load_space
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.image_data import ImageData
from tests.data.pictures import write_folder
from tests.exporting.models import supernet_of

ALLOWED_S = 120.0
CLASSES = 10


def main() -> int:
    """Print the seconds; 1 if they are too many."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--arch", default="a6")
    parser.add_argument("--images", type=int, default=1000)
    given = parser.parse_args()
    threads = torch.get_num_threads()
    space = load_space("alphanet", CLASSES)
    names = [f"class{number}" for number in range(CLASSES)]
    with TemporaryDirectory() as folder:
        counts = {"train": dict.fromkeys(names, 2), "test": dict.fromkeys(names, given.images // CLASSES)}
        images = write_folder(Path(folder, "images"), counts, side=300, suffix=".jpg")
        data = DataSettings(
            kind="folder", path=str(images), size=224, resize=256, augment=AugmentSettings(crop="none"), workers=0
        )
        device = load_device("cpu").model_copy(update={"threads": threads})
        exporter = Exporter(
            supernet=supernet_of(space),
            task=Classification(),
            data=ImageData(open_data(data, seed=0), data),
            recalibration=None,
            seed=0,
            target=ExportTarget(device, None),
            origin=ExportOrigin(run="none", recipe={}, budget={}),
            progress=Progress(),
        )
        start = perf_counter()
        manifest = exporter.export(space.named[given.arch], Path(folder, "out"), plan_jobs(("onnx",), device))
        seconds = perf_counter() - start
    accuracy = manifest.artefacts[0].proof.accuracy
    assert accuracy is not None and accuracy.images == given.images
    print(f"{given.arch}, {given.images} test images, {threads} threads: {seconds:.1f} s (allowed {ALLOWED_S:g})")
    return int(seconds > ALLOWED_S)


if __name__ == "__main__":
    sys.exit(main())
