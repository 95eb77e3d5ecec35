"""What a measurement was made of, on, and how. Measurements under different conditions are never mixed."""

from dataclasses import fields

from nasdeploy.core.settings import Settings
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.device import fingerprint
from nasdeploy.latency.machine import Fingerprint, differences
from nasdeploy.latency.protocol import MeasurementProtocol
from nasdeploy.runtimes.device import Device


class Conditions(Settings):
    """Space, device with its fingerprint, and protocol."""

    device: Device
    fingerprint: Fingerprint
    protocol: MeasurementProtocol
    space: str
    space_digest: str
    classes: int

    @classmethod
    def here(cls, space: SearchSpace, device: Device, protocol: MeasurementProtocol) -> "Conditions":
        """Of the machine that `device` names; raises `UserError` if it cannot be used."""
        return cls.of(space, device, fingerprint(device), protocol)

    @classmethod
    def of(
        cls, space: SearchSpace, device: Device, machine: Fingerprint, protocol: MeasurementProtocol
    ) -> "Conditions":
        """Of a runner that is open."""
        return cls(
            device=device,
            fingerprint=machine,
            protocol=protocol,
            space=space.name,
            space_digest=space.digest,
            classes=space.output_size,
        )

    def changes(self, now: "Conditions") -> list[str]:
        """One readable line for each thing that differs between these conditions and those of `now`."""
        found = differences(self.fingerprint, now.fingerprint)
        if self.space_digest != now.space_digest:
            found.append(f"space: {self.space} ({self.space_digest}), now {now.space} ({now.space_digest})")
        if self.device.name != now.device.name:
            found.append(f"device: {self.device.name}, now {now.device.name}")
        for field in fields(MeasurementProtocol):
            before, after = getattr(self.protocol, field.name), getattr(now.protocol, field.name)
            if before != after:
                found.append(f"protocol, {field.name}: {before}, now {after}")
        return found
