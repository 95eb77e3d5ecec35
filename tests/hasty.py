"""Measuring in a moment, for tests that go the whole way and compare no times: budgets that no busy machine misses."""

from functools import partial

import pytest

from nasdeploy.exporting.proof import ExportTarget
from nasdeploy.latency.profile import profile
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds
from nasdeploy.latency.runners.processes import open_processes
from nasdeploy.workflows.runtimes import compare

HASTY = MeasurementProtocol(
    blocks=Rounds(group=16, visits=3),
    networks=Rounds(group=4, visits=3),
    warmup=1,
    discarded=1,
    kept=4,
    shortest_group_s=0,
    retries=0,
    calibration_networks=10,
    held_out_networks=4,
)


def measure_hastily(patch: pytest.MonkeyPatch, protocol: MeasurementProtocol = HASTY) -> None:
    """Profile a space, measure finalists, exported models and runtimes by a short protocol, each in one process.

    That is this one for all but runtimes.
    """
    measured = partial(profile, protocol=protocol)
    patch.setattr("nasdeploy.latency.profile.profile", measured)
    patch.setattr("nasdeploy.workflows.table.profile", measured)
    patch.setattr("nasdeploy.searching.finalists.MeasurementProtocol", lambda: protocol)
    patch.setattr("nasdeploy.searching.finalists.open_processes", partial(open_processes, number=1))
    patch.setattr("nasdeploy.workflows.models.open_processes", partial(open_processes, number=1))
    patch.setattr("nasdeploy.exporting.proof.ExportTarget", partial(ExportTarget, protocol=protocol))
    patch.setattr("nasdeploy.workflows.runtimes.compare", partial(compare, protocol=protocol))
    patch.setattr("nasdeploy.latency.runners.in_turn.PROCESSES", 1)
