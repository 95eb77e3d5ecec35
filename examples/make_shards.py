"""Packs an image folder (train/CLASS/*, and val/ and test/ where there are any) into WebDataset tar shards.

    pip install -c constraints.txt -e '.[shards]'
    python examples/make_shards.py photos photo-shards --per-shard 1000
    nasdeploy init --data photo-shards

Samples are in random order: while training, only some shards at a time are shuffled with each other.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from webdataset import TarWriter

from nasdeploy.data.folder import list_folder
from nasdeploy.store.files import replacing, write_text


def main() -> None:
    """Read the command line and pack all parts of the folder."""
    parser = argparse.ArgumentParser(description="Pack an image folder into WebDataset tar shards.")
    parser.add_argument("folder", type=Path, help="holds train/CLASS/*")
    parser.add_argument("shards", type=Path, help="where to write train/*.tar")
    parser.add_argument("--per-shard", type=int, default=1000, help="images; 100 MB a shard is usual")
    given = parser.parse_args()
    listing = list_folder(given.folder)
    write_text(given.shards / "classes.txt", "".join(f"{name}\n" for name in listing.classes))
    for part, images in listing.parts.items():
        labelled = [(path, label) for label, name in enumerate(listing.classes) for path in images.get(name, [])]
        random.Random(0).shuffle(labelled)
        for first in range(0, len(labelled), given.per_shard):
            shard = given.shards / part / f"{first // given.per_shard:06d}.tar"
            write_shard(shard, first, labelled[first : first + given.per_shard])
        print(f"{part}: {len(labelled)} images")


def write_shard(shard: Path, first: int, labelled: Sequence[tuple[Path, int]]) -> None:
    """Write one shard, whole or not at all; `first` is the number of its first image."""
    # Without an encoder: what is given are bytes, which are to stay as they are.
    with replacing(shard) as partial, TarWriter(str(partial), encoder=False) as tar:
        for number, (path, label) in enumerate(labelled, start=first):
            image = path.suffix.lower().removeprefix(".")
            tar.write({"__key__": f"{number:08d}", image: path.read_bytes(), "cls": str(label).encode()})


if __name__ == "__main__":
    main()
