"""Images a second that the loader gives with pictures decoded each time, kept in memory, and kept on disk.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_cache.py [--images 400] [--width 500] [--height 375] [--workers 2]

JPEG files of blurred noise with grain, about 80 kB each at 500 x 375, are read in the order of training, without a
network. `first` is the epoch that also decodes the pictures for the cache, `later` the median of the epochs after it:
images for each second of processors that all processes took together, and for each second of the clock. The three ways
take turns, so that a machine's other work meets all of them; it says little to the first figure. Files and caches come
from the page cache, and lie in a temporary home. Every epoch is checked to have the same bytes, whatever keeps the
pictures.
"""

import argparse
import json
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
from PIL import Image

from nasdeploy.data.batches import TrainingBatches
from nasdeploy.data.datasets import open_data
from nasdeploy.data.settings import DataSettings

MODES = ("none", "memory", "disk")
BATCH = 64


def write_photographs(root: Path, count: int, width: int, height: int) -> int:
    """Write JPEG files of two classes, all different, and return their bytes."""
    rng, total = np.random.default_rng(0), 0
    for number in range(count):
        blurred = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
        shown = np.asarray(blurred.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int64)
        grain = rng.integers(-12, 13, (height, width, 3))
        file = root / "train" / "ab"[number % 2] / f"{number:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((shown + grain).clip(0, 255).astype(np.uint8)).save(file, quality=90)
        total += file.stat().st_size
    return total


def epochs(settings: DataSettings, count: int) -> Iterator[tuple[float, float, str]]:
    """Yield images by the second of processors and of the clock, and a digest of the bytes, of each epoch."""
    images = open_data(settings, seed=0).train
    batches = TrainingBatches(images, settings, BATCH, seed=0)
    for epoch in range(count):
        began, busy = perf_counter(), processors_s()
        read = [pixels.numpy() for pixels, _ in batches.pixels(epoch)]
        number, took, worked = sum(map(len, read)), perf_counter() - began, processors_s() - busy
        yield number / worked, number / took, sha256(b"".join(read)).hexdigest()


def processors_s() -> float:
    """Return seconds of processors that this process and those that it has waited for took."""
    own, others = getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def rates(ways: dict[str, Iterator[tuple[float, float, str]]]) -> dict[str, dict[str, float]]:
    """Return the rates of each way; raises AssertionError if they do not give the same bytes."""
    found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in ways}
    for results in zip(*ways.values(), strict=True):
        assert len({digest for _, _, digest in results}) == 1
        for mode, (worked, took, _) in zip(ways, results, strict=True):
            found[mode].append((worked, took))
    later = {mode: [median(each) for each in zip(*epochs[1:], strict=True)] for mode, epochs in found.items()}
    return {
        mode: {
            "first": round(found[mode][0][0]),
            "later": round(later[mode][0]),
            "ratio": round(later[mode][0] / later["none"][0], 2),
            "later_by_the_clock": round(later[mode][1]),
            "ratio_by_the_clock": round(later[mode][1] / later["none"][1], 2),
        }
        for mode in ways
    }


def main() -> None:
    """Print images a second of each way, and the ratios to decoding each time, as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args()
    found: dict[str, object] = {"images": given.images, "pixels": [given.width, given.height]}
    with TemporaryDirectory() as place:
        os.environ["HOME"] = place
        total = write_photographs(Path(place, "photos"), given.images, given.width, given.height)
        found["mean_file_kb"] = round(total / given.images / 1e3, 1)
        for crop in ("random-resized", "pad"):
            shared = {"kind": "folder", "path": f"{place}/photos", "size": given.size, "workers": given.workers}
            ways = {
                mode: epochs(
                    DataSettings.model_validate({**shared, "augment": {"crop": crop}, "cache": mode}), given.epochs
                )
                for mode in MODES
            }
            found[crop] = rates(ways)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
