"""The machine's changing speed taken out of a measurement, as far as the reference graph tells it.

On a shared machine a group of sessions is measured while everything takes a third longer, and the next one is not. Each
timing is divided by a power of how much longer than usual the reference graph took meanwhile. By a power, because the
reference graph is measured with noise itself, and because not every graph suffers alike from what slows the machine
(regression dilution: Fuller, Measurement Error Models, 1987, section 1.1). Which one is told by the networks that the
table is calibrated on, never by those held out; on a quiet machine all are the same.
"""

from collections.abc import Mapping

import numpy as np

from nasdeploy.core.arch import Arch
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.calibration import relative_errors
from nasdeploy.latency.conditions import Conditions
from nasdeploy.latency.drift import steadied, usual_reference
from nasdeploy.latency.protocol import Timing
from nasdeploy.latency.table import LatencyTable, Role, network_terms, predicted

POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""That are tried; 0 leaves timings as they are."""


def steadied_table(
    space: SearchSpace,
    conditions: Conditions,
    created: str,
    entries: Mapping[str, Timing],
    networks: Mapping[Arch, Timing],
    roles: Mapping[Arch, Role],
) -> LatencyTable:
    """The table of blocks `entries` and whole `networks` with the power that predicts its calibration networks best."""
    usual = usual_reference([*entries.values(), *networks.values()])

    def table(power: float) -> LatencyTable:
        blocks = {key: steadied(timing, usual, power) for key, timing in entries.items()}
        measured = [
            network_terms(blocks, space, arch, role, steadied(networks[arch], usual, power))
            for arch, role in roles.items()
        ]
        return LatencyTable.fitted(conditions, created, blocks, measured, power)

    return min(map(table, POWERS[:1] if usual is None else POWERS), key=_calibration_error)


def _calibration_error(table: LatencyTable) -> float:
    """Mean absolute relative error on the networks that the table is calibrated on."""
    known = [network for network in table.networks if network.role == "calibration"]
    expected = [seconds / table.median_ratio for seconds in predicted(table.calibration, known)]
    return float(np.abs(relative_errors(expected, [network.timing.undisturbed for network in known])).mean())
