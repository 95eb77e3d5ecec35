"""Random generators derived from a seed and a purpose, so that a restart or a worker count changes nothing."""

from zlib import crc32

import numpy as np


def seed_for(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose, e.g. `seed_for(0, "step", 17)`; independent for different purposes."""
    words = [crc32(part.encode()) if isinstance(part, str) else part for part in purpose]
    # The length goes in because SeedSequence takes [a] and [a, 0] for the same.
    state = np.random.SeedSequence([len(words), seed, *words]).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return a NumPy generator for one purpose of a seeded run."""
    return np.random.default_rng(seed_for(seed, *purpose))
