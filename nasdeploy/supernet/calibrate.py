"""Recalibration of batch normalisation (BigNAS, section 3.4; AlphaNet): running statistics of an extracted network."""

from collections.abc import Iterable

import torch
from torch import Tensor

from nasdeploy.nn.functional import Statistics
from nasdeploy.nn.network import Network
from nasdeploy.nn.rescale import rescale
from nasdeploy.supernet.supernet import input_side


def calibrate(network: Network, batches: Iterable[Tensor]) -> Network:
    """Set the running statistics to the cumulative average over batches `[N, 3, S, S]`, rescaled to the input's side.

    The network is returned in evaluation mode. Raises ValueError if there is no batch.
    """
    side, seen = input_side(network.plan), 0
    with torch.no_grad():
        for seen, batch in enumerate(batches, start=1):
            # The first average has weight 1 and so replaces whatever was there.
            network.compute(rescale(batch, side), Statistics(batch=True, momentum=1.0 / seen))
    if not seen:
        raise ValueError("calibration needs at least one batch")
    return network.eval()
