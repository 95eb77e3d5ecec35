"""Latency tables of the toy space without measuring anything."""

from collections.abc import Mapping
from functools import cache
from itertools import product
from typing import Literal

import numpy as np

from nasdeploy.core.arch import Arch
from nasdeploy.latency.machine import Fingerprint
from nasdeploy.latency.protocol import MeasurementProtocol, Timing
from nasdeploy.latency.table import Conditions, LatencyTable, MeasuredNetwork, network_terms
from nasdeploy.runtimes.device import Device
from tests.small_spaces import ToySpace

SPACE = ToySpace()
AT = "2026-11-24T00:00:00+00:00"
DEVICE = Device(name="cpu", runtime="onnxruntime")
FINGERPRINT = Fingerprint(
    cpu="a processor",
    cores=2,
    governor="performance",
    max_frequency="2600 MHz",
    memory="24 GiB",
    system="Linux 6",
    runtime="onnxruntime 1",
    precision="fp32",
    batch=1,
    threads=1,
    options="",
)
CONDITIONS = Conditions(
    device=DEVICE,
    fingerprint=FINGERPRINT,
    protocol=MeasurementProtocol(),
    space=SPACE.name,
    space_digest=SPACE.digest,
    classes=10,
)


def timing(seconds: float) -> Timing:
    return Timing(seconds, p10=0.99 * seconds, p90=1.01 * seconds, p95=1.03 * seconds, n=25, at=AT)


def entries(seed: int = 0) -> dict[str, Timing]:
    draw = np.random.default_rng(seed)
    return {key: timing(float(draw.uniform(1e-4, 1e-3))) for key in SPACE.distinct_blocks()}


@cache
def _archs() -> tuple[Arch, ...]:
    names = [choice.name for choice in SPACE.choices]
    combinations = product(*(choice.values for choice in SPACE.choices))
    return tuple({SPACE.arch(dict(zip(names, values, strict=True))): None for values in combinations})


def archs() -> list[Arch]:
    """Every architecture of the space, once."""
    return list(_archs())


def true_seconds(arch: Arch, known: Mapping[str, Timing]) -> float:
    """What a whole network takes in this toy world."""
    plan = SPACE.plan(arch)
    total, params = plan.total(lambda block: known[block.key].median), plan.total(lambda block: block.params)
    return 0.9 * total + 2e-5 * plan.total(lambda block: 1) + 1e-7 * params + 5e-5


@cache
def _networks(noise: float, seed: int) -> tuple[MeasuredNetwork, ...]:
    draw = np.random.default_rng(seed)
    known = entries(seed)
    networks = []
    for place, arch in enumerate(archs()):
        role: Literal["calibration", "held-out"] = "calibration" if place % 7 == 0 else "held-out"
        if place % 7 == 0 or place % 11 == 0:
            seconds = true_seconds(arch, known) * (1 + noise * draw.standard_normal())
            networks.append(network_terms(known, SPACE, arch, role, timing(seconds)))
    return tuple(networks)


def table(noise: float = 0.0, seed: int = 0) -> LatencyTable:
    """A table calibrated on every seventh architecture, every eleventh of the others held out."""
    return LatencyTable.fitted(CONDITIONS, AT, entries(seed), list(_networks(noise, seed)))
