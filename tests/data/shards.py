"""Small tar shards for tests, written by webdataset."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from webdataset import TarWriter

from tests.data.pictures import noise


def png(seed: int, side: int = 10) -> bytes:
    file = io.BytesIO()
    noise(side, side, seed).save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, samples: Sequence[Mapping[str, Any]]) -> Path:
    """Write samples, `__key__` and bytes by extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TarWriter(str(path), encoder=False, mtime=0) as tar:
        for sample in samples:
            tar.write(dict(sample))
    return path


def write_shards(root: Path, parts: Mapping[str, Mapping[str, int]], per_shard: int = 5, side: int = 10) -> Path:
    """Write e.g. `{"train": {"cat": 5, "dog": 5}}`: as many images of noise, the classes by turns, named in `.cls`."""
    seed = 0
    for part, classes in parts.items():
        turns = sorted((turn, label) for label, count in classes.items() for turn in range(count))
        samples = []
        for _, label in turns:
            samples.append({"__key__": f"{seed:05d}", "png": png(seed, side), "cls": label.encode()})
            seed += 1
        for first in range(0, len(samples), per_shard):
            write_tar(root / part / f"{first // per_shard:04d}.tar", samples[first : first + per_shard])
    return root
