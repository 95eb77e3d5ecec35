"""Versions as numbers that can be compared."""

from itertools import takewhile


def numbers(version: str) -> list[int]:
    """`[2026, 4]` of `2026.4.1rc1`: from a part that is no number on nothing counts."""
    return [int(part) for part in takewhile(str.isdigit, version.split("."))]
