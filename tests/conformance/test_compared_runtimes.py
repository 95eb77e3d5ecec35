"""Every runtime takes its place in a comparison: measured and right, or with the reason why not."""

from collections.abc import Mapping

import pytest

from nasdeploy.convert.measured import CONVERTERS
from nasdeploy.core.progress import Progress
from nasdeploy.latency.runners import in_turn
from nasdeploy.runtimes import RUNTIMES
from nasdeploy.runtimes.device import Device
from nasdeploy.workflows.compared_network import network_of
from nasdeploy.workflows.runtimes import RuntimeResult, compare
from tests.hasty import HASTY
from tests.small_spaces import one_stage

SPACE = one_stage()
# Those of programs are in tests/runtimes/: one takes half a minute to convert, and is shared with other tests there.
NAMES = [name for name, runtime in RUNTIMES.items() if runtime.form in CONVERTERS]


@pytest.fixture(scope="module")
def results() -> Mapping[str, RuntimeResult]:
    devices = [Device(name=name, runtime=name) for name in NAMES]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_turn, "PROCESSES", 1)
        found = compare(network_of(SPACE.smallest(), SPACE), devices, Progress(quiet=True), HASTY)
    return {each.device: each for each in found.results}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_runtime_is_measured_and_right_or_says_why_not(name: str, results: Mapping[str, RuntimeResult]) -> None:
    result, runtime = results[name], RUNTIMES[name]
    lacking = runtime.missing() or runtime.obstacle()
    if lacking:
        assert result.reason is not None and lacking in result.reason
        assert (result.median_ms, result.difference) == (None, None)
        return
    assert (result.reason, result.problem) == (None, None)
    assert result.median_ms is not None and 0 < result.median_ms < 1000
    assert result.megabytes is not None and result.megabytes > 0
    assert result.difference is not None and result.difference <= 1e-4
    assert result.version == runtime.version()
