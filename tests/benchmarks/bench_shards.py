"""What tar shards cost: finding their samples, and reading images from them against the same images in a folder.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_shards.py

Reading is timed in the order of training, without decoding, by windows of shards; both from the page cache unless more
images are given than it holds (--images), and interleaved.
"""

import argparse
import json
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
from webdataset import TarWriter

from nasdeploy.data.images import FileImages
from nasdeploy.data.shard_images import ShardImages
from nasdeploy.data.shard_index import index_of


def write(root: Path, images: int, size: int, per_shard: int) -> tuple[list[Path], tuple[Path, ...]]:
    """The same bytes as files and in shards."""
    rng, files, shards = np.random.default_rng(0), [], []
    for first in range(0, images, per_shard):
        shards.append(root / f"{first:08d}.tar")
        with TarWriter(str(shards[-1]), encoder=False) as tar:
            for number in range(first, min(first + per_shard, images)):
                content = rng.bytes(size)
                files.append(root / f"{number:08d}.jpg")
                files[-1].write_bytes(content)
                tar.write({"__key__": f"{number:08d}", "jpg": content, "cls": str(number % 1000).encode()})
    return files, tuple(shards)


def main() -> None:
    """Print medians over rounds as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=100_000)
    parser.add_argument("--per-shard", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    found: dict[str, list[float]] = {"index_us": [], "shards_us": [], "files_us": []}
    with TemporaryDirectory(dir=".") as root:
        files, shards = write(Path(root), given.images, given.bytes, given.per_shard)
        for epoch in range(given.rounds):
            begun = perf_counter()
            index = index_of(shards)
            indexed = perf_counter()
            images = ShardImages.of(index, index.text)
            order = images.readable_order(
                np.random.default_rng(epoch).permutation(len(images)), np.random.default_rng()
            )
            started = perf_counter()
            for place in order:
                images.content(place)
            read = perf_counter()
            in_files = FileImages(files, index.text)
            for place in order:
                in_files.path(place).read_bytes()
            times = (indexed - begun, read - started, perf_counter() - read)
            for name, time in zip(found, times, strict=True):
                found[name].append(1e6 * time / given.images)
    print(json.dumps({"images": given.images, **{name: round(median(each), 1) for name, each in found.items()}}))


if __name__ == "__main__":
    main()
