"""Architectures beyond a budget, changed gene by gene until they are within it. Torch-free."""

import numpy as np

from nasdeploy.core.counting.chain import Integers
from nasdeploy.core.space import Codes, SearchSpace
from nasdeploy.searching.problem import Problem

_AT_ONCE = 4096
"""Changes that are looked at together."""


def repaired(problem: Problem, codes: Codes, rng: np.random.Generator) -> Codes:
    """The feasible ones of codes `[n, choices]`, and what the others become: up to `n`, in their order.

    One value at a time is replaced by another, in random order, if that brings the architecture closer to all bounds
    together, until it is feasible or no replacement helps. What is changed no more than that ends near the bounds,
    where the best architectures are.
    """
    codes = codes.copy()
    beyond = problem.violation(problem.costs(codes))
    (left,) = np.nonzero(beyond > 0)
    places, values = _every_value(problem.space)
    orders = rng.permuted(np.tile(np.arange(len(places)), (len(codes), 1)), axis=1)
    begin, in_vain = np.zeros((2, len(codes)), dtype=np.int64)
    while len(left):
        number = min(max(_AT_ONCE // len(left), 1), len(places))
        looked_at = (begin[left, None] + np.arange(number)) % len(places)
        tried = orders[left[:, None], looked_at]
        changed = np.repeat(codes[left, None], number, axis=1)
        np.put_along_axis(changed, places[tried][..., None], values[tried][..., None], axis=2)
        now = problem.violation(problem.costs(changed.reshape(-1, codes.shape[1]))).reshape(tried.shape)
        closer = now < beyond[left, None]
        rows, first, helped = np.arange(len(left)), closer.argmax(axis=1), closer.any(axis=1)
        codes[left[helped]], beyond[left[helped]] = changed[rows, first][helped], now[rows, first][helped]
        begin[left] += np.where(helped, first + 1, number)
        in_vain[left] = np.where(helped, 0, in_vain[left] + number)
        left = left[(beyond[left] > 0) & (in_vain[left] < len(places))]
    return codes[problem.feasible(problem.costs(codes))]


def _every_value(space: SearchSpace) -> tuple[Integers, Codes]:
    """Places of all choices, once for each of their values, and these."""
    sizes = [len(choice.values) for choice in space.choices]
    values = np.concatenate([np.arange(size, dtype=np.int16) for size in sizes])
    return np.repeat(np.arange(len(sizes)), sizes), values
