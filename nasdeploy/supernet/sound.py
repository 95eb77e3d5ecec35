"""Weights that nothing can be learned from or computed with: they are told before anything starts from them."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

_MOST_NAMED = 3


def unsound(weights: Mapping[str, Tensor]) -> str | None:
    """Return what is wrong with a state dict, naming the first tensors; None if nothing is.

    Wrong are numbers that are not finite in float32, variances of batch normalisation that are negative, or zero in
    every channel, and convolutions and matrices of which all numbers are the same: training makes none of them. A
    single channel of variance zero is one that is always the same, which happens.
    """
    return _named([*_broken(weights), *_uniform(weights)])


def uncomputable(weights: Mapping[str, Tensor]) -> str | None:
    """Say what is wrong with weights of any network, in which a uniform matrix may have its sense."""
    return _named([*_broken(weights)])


def _broken(weights: Mapping[str, Tensor]) -> Iterator[str]:
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        # As it is computed with: 1e300 in a file of float64 is infinite.
        values = tensor.float()
        if count := int((~values.isfinite()).sum()):
            kind = "NaN" if bool(values.isnan().any()) else "infinity"
            yield f"{name} holds {kind} in {count} of {values.numel()} numbers"
        elif name.endswith("running_var") and bool((values < 0).any()):
            yield f"{name} is negative, and it is a variance"
        elif name.endswith("running_var") and not bool(values.any()):
            yield f"{name} is zero everywhere, and it is a variance"


def _uniform(weights: Mapping[str, Tensor]) -> Iterator[str]:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and tensor.ndim >= 2 and tensor.numel() > 1:
            values = tensor.float()
            first = values.flatten()[0]
            if bool(first.isfinite()) and bool(torch.all(values == first)):
                yield f"{name} is {float(first):g} everywhere"


def _named(found: Sequence[str]) -> str | None:
    """Return the first of what was found, and how many more there are."""
    if not found:
        return None
    more = len(found) - _MOST_NAMED
    return ", ".join(found[:_MOST_NAMED]) + (f", and {more} more tensors" if more > 0 else "")
