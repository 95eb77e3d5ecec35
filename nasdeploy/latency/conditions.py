"""What a measurement was made of, on, and how. Measurements under different conditions are never mixed."""

from nasdeploy.latency.device import Fingerprint, fingerprint
from nasdeploy.latency.measure import Protocol
from nasdeploy.runtimes.device import Device
from nasdeploy.settings import Settings
from nasdeploy.space import SearchSpace


class Conditions(Settings):
    """Space, device with its fingerprint, and protocol."""

    device: Device
    fingerprint: Fingerprint
    protocol: Protocol
    space: str
    space_digest: str
    classes: int

    @classmethod
    def here(cls, space: SearchSpace, device: Device, protocol: Protocol) -> "Conditions":
        """Of this machine; raises `UserError` if the device's runtime is not installed."""
        return cls(
            device=device,
            fingerprint=fingerprint(device),
            protocol=protocol,
            space=space.name,
            space_digest=space.digest,
            classes=space.plan(space.smallest()).steps[-1].block.output[0],
        )

    @property
    def file_name(self) -> str:
        """Name of the table's file."""
        return f"{self.device.name}-{self.space}-{self.space_digest}-{self.classes}.json"
