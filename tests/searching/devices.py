"""Tables of the toy space on several devices."""

from nasdeploy.latency.table import LatencyTable
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Precision
from tests.latency.tables import CONDITIONS, table


def on(name: str, seed: int = 0, precision: Precision = "fp32", noise: float = 0.0) -> LatencyTable:
    """The toy world's table as that of a device of this name; other seeds have other entries."""
    made = table(noise=noise, seed=seed)
    device = Device(name=name, runtime="onnxruntime", precision=precision)
    conditions = CONDITIONS.model_copy(update={"device": device})
    return LatencyTable.fitted(conditions, made.created, made.entries, made.networks)
