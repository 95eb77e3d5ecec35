"""The latency table of a search space on a device: an entry for every block, calibrated on whole networks.

A table is a record: it is read, predicts, and is written; `nasdeploy.latency.profile` measures one. Where tables lie,
one file for each device and space, is said here too.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from nasdeploy.core.arch import Arch, Json
from nasdeploy.core.cost_registry import SlotCost
from nasdeploy.core.costs import Costs, Floats
from nasdeploy.core.counting.chain import extremes
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Block, Plan
from nasdeploy.core.settings import Settings
from nasdeploy.core.space import Codes, SearchSpace, Slot
from nasdeploy.latency.calibration import HeldOutError, LatencyCalibration, fit, held_out_error, relative_deviation
from nasdeploy.latency.machine import Fingerprint, differences
from nasdeploy.latency.protocol import MeasurementProtocol, Timing, corrected, usual_reference
from nasdeploy.runtimes.device import Device
from nasdeploy.store.files import write_text
from nasdeploy.store.records import parse_record, read_object

TABLES = Path("profiles/tables")
Role = Literal["calibration", "held-out", "search"]
SCHEMA_VERSION: Literal[3] = 3


class Conditions(Settings):
    """What a measurement was made of, on, and how: measurements under different conditions are never mixed."""

    device: Device
    """The device, as its file said when it was measured."""
    fingerprint: Fingerprint
    """The machine, and whatever else moves latencies."""
    protocol: MeasurementProtocol
    """How it was measured."""
    space: str
    """The name of the search space."""
    space_digest: str
    """The digest of the space's choices, slots and blocks."""
    classes: int
    """The size of the outputs of the networks, such as the number of classes."""

    @classmethod
    def of(
        cls, space: SearchSpace, device: Device, machine: Fingerprint, protocol: MeasurementProtocol
    ) -> "Conditions":
        """Return the conditions of measuring `space` on `device`, whose `machine` has that fingerprint, by
        `protocol`."""
        return cls(
            device=device,
            fingerprint=machine,
            protocol=protocol,
            space=space.name,
            space_digest=space.digest,
            classes=space.output_size,
        )

    def changes(self, now: "Conditions") -> list[str]:
        """Return one readable line for each thing that differs between these conditions and those of `now`."""
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


@dataclass(frozen=True)
class MeasuredNetwork:
    """A whole network's latency, beside the terms of its prediction; times in seconds.

    Raises `ValueError` if there is nothing that can take time.
    """

    arch: dict[str, Any]
    """The values of its choices."""
    role: Role
    """What it was measured for: to calibrate the table, to tell its error, or as a finalist of a search."""
    entries: float
    """The sum of the table's entries of its blocks, as they are when nothing disturbs them."""
    blocks: int
    """The number of its blocks, as often as each runs."""
    params: int
    """The parameters of its blocks, as often as each runs."""
    timing: Timing
    """The seconds of the whole network."""

    def __post_init__(self) -> None:
        if self.entries <= 0 or self.blocks < 1 or self.params < 0:
            raise ValueError(f"a network has blocks that take time; found {self}")


@dataclass(frozen=True)
class PredictedLatency:
    """The seconds of the median call, their standard deviation, and the 95th percentile, as seen on whole networks."""

    seconds: float
    """The seconds of the median call."""
    uncertainty: float
    """The standard deviation of `seconds`, in seconds."""
    p95: float
    """The seconds that 95 % of calls take at most."""


def _one_deviation(found: Any) -> Any:
    """Read what tables were written with before: deviations by latency, of which the root mean square is the one."""
    if isinstance(found, dict) and isinstance(found.get("relative"), list) and found["relative"]:
        return float(np.sqrt(np.mean(np.square(found["relative"]))))
    return found


class LatencyTable(Settings):
    """Latencies in seconds by block key, and how they add up to a network's. Made by `LatencyTable.fitted`.

    What adds up are calls that nothing disturbs (`Timing.undisturbed`): on a machine that is not quiet they are found
    again far better than medians are. A median is predicted as that times what whole networks show.
    """

    schema_version: Literal[3] = SCHEMA_VERSION
    """The version of the table's form."""
    conditions: Conditions
    """What was measured, on what, and how."""
    created: str
    """The time when the table was finished: UTC, ISO 8601."""
    calibration: LatencyCalibration
    """The map from sums of undisturbed entries to medians of networks."""
    median_ratio: float = Field(ge=1)
    """The median by the undisturbed seconds of whole networks' runs, which `calibration` contains."""
    held_out: HeldOutError | None
    """The error on the medians of the networks with that role."""
    held_out_undisturbed: HeldOutError | None
    """The error on their undisturbed seconds, without the noise of the medians."""
    uncertainty: Annotated[float, BeforeValidator(_one_deviation), Field(ge=0)]
    """The standard deviation of relative errors of predictions (0.02 for 2 per cent), from the held-out networks if
    there are any: of medians on a machine as quiet as when it was profiled, which budgets are held against."""
    p95_ratio: float = Field(ge=1)
    """The p95/p50 of whole networks' runs. Percentiles of blocks say nothing about it: they do not add up."""
    steadied: float = Field(default=0.0, ge=0, le=1)
    """The power of the machine's speed, as the reference graph told it, that timings were divided by."""
    entries: dict[str, Timing]
    """The seconds of each block, by the block's key."""
    networks: tuple[MeasuredNetwork, ...] = Field(min_length=1)
    """The whole networks that were measured."""

    @classmethod
    def fitted(
        cls,
        conditions: Conditions,
        created: str,
        entries: Mapping[str, Timing],
        networks: Sequence[MeasuredNetwork],
        steadied: float = 0.0,
    ) -> "LatencyTable":
        """Return a table calibrated on all `networks` but the held-out ones, which give its error.

        `conditions` say what was measured, how and when (`created`: UTC, ISO 8601), and `entries` are the seconds of
        blocks by key. `steadied` is the power by which the given timings were corrected for drift
        (`nasdeploy.latency.campaign`).
        """
        known = [network for network in networks if network.role != "held-out"]
        held_out = [network for network in networks if network.role == "held-out"]
        ratio = float(np.median([network.timing.median / network.timing.undisturbed for network in known]))
        undisturbed = _undisturbed(known)
        calibration = undisturbed.scaled(ratio)
        return cls(
            conditions=conditions,
            created=created,
            calibration=calibration,
            median_ratio=ratio,
            held_out=held_out_error(predicted(calibration, held_out), [n.timing.median for n in held_out]),
            held_out_undisturbed=held_out_error(
                predicted(undisturbed, held_out), [n.timing.undisturbed for n in held_out]
            ),
            uncertainty=relative_deviation(
                predicted(calibration, held_out or known), [ratio * n.timing.undisturbed for n in held_out or known]
            ),
            p95_ratio=float(np.median([n.timing.p95 / n.timing.median for n in networks])),
            steadied=steadied,
            entries=dict(entries),
            networks=tuple(networks),
        )

    def with_measured(self, space: SearchSpace, measured: Mapping[Arch, Timing]) -> "LatencyTable":
        """Return this table with more networks of `space` in its calibration, `measured` in seconds during a search."""
        added = [network_terms(self.entries, space, arch, "search", timing) for arch, timing in measured.items()]
        replaced = [network.arch for network in added]
        kept = [n for n in self.networks if n.role != "search" or n.arch not in replaced]
        return LatencyTable.fitted(self.conditions, self.created, self.entries, [*kept, *added], self.steadied)

    def at_usual_speed(self, timing: Timing) -> Timing:
        """Return `timing`, which was measured for this table, corrected by its reference as far as the table's timings
        were."""
        usual = usual_reference([*self.entries.values(), *(n.timing for n in self.networks if n.role != "search")])
        return corrected(timing, usual, self.steadied)

    def as_when_profiled(self, timing: Timing) -> Timing:
        """Return `timing`, of a whole network, as it would be on a machine as fast and as quiet as when it was
        profiled.

        At the usual speed, and with the median and the 95th percentile in proportion to undisturbed seconds that the
        table's networks show. Those that were measured differ from one minute to the next where a machine is shared;
        what the table predicts are these.
        """
        usual = self.at_usual_speed(timing)
        median = self.median_ratio * usual.undisturbed
        p95 = self.p95_ratio * median
        return replace(usual, median=median, p90=min(max(usual.p90, median), p95), p95=p95)

    # -- prediction

    def predict(self, plan: Plan) -> PredictedLatency:
        """Return the seconds of the network of `plan`; raises `UserError` naming blocks that the table lacks."""
        (seconds,) = self.calibration(np.array([_sums(self.entries, plan)])).tolist()
        return PredictedLatency(seconds, self.uncertainty * seconds, self.p95_ratio * seconds)

    def calibrated_cost(self, slot: Slot, block: Block) -> float:
        """Return the seconds that `block` in `slot` adds to a prediction; the calibration's offset is on top."""
        once = self.calibration.per_block + self.calibration.per_param * block.params
        return self.calibration.slope * entry_cost(self.entries)(slot, block) + slot.part.runs * once

    def latencies(self, space: SearchSpace) -> Callable[[Codes], Floats]:
        """Return a function that predicts many networks of `space`: from codes `[n, choices]` to seconds `[n]`."""
        costs, offset = Costs(space, [self.calibrated_cost]), self.calibration.offset
        return lambda codes: costs(codes)[:, 0] + offset

    def range(self, space: SearchSpace) -> tuple[float, float]:
        """Return the predicted seconds of the fastest and of the slowest network of `space`, exactly."""
        fastest, slowest = extremes(space, self.calibrated_cost)
        return fastest.cost + self.calibration.offset, slowest.cost + self.calibration.offset

    @property
    def noise(self) -> dict[str, int]:
        """The number of entries and networks that are not to be trusted, by reason."""
        timings = [*self.entries.values(), *(network.timing for network in self.networks)]
        return dict(Counter(timing.noise for timing in timings if timing.noisy))

    # -- files

    def save(self, path: Path) -> None:
        """Write the table to `path`, one line an entry, whole or not at all."""
        data = self.model_dump(mode="json")
        write_text(path, _lines({**data, "sha256": _checksum(data)}))

    @classmethod
    def load(cls, path: Path) -> "LatencyTable":
        """Read the table in `path`; raises `UserError` if it is damaged, was edited, or is of another version."""
        remedy = "restore it, or measure again with `nd.profile(restart=True)`"
        data = read_object(path, remedy)
        _require_version(data, path)
        if data.pop("sha256", None) != _checksum(data):
            raise UserError(f"{path}: damaged or edited, its content does not match its checksum; {remedy}")
        return parse_record(cls, data, path, remedy)

    def require_space(self, space: SearchSpace) -> None:
        """Raise `UserError` unless this is the table of `space`."""
        measured = self.conditions
        if measured.space_digest != space.digest:
            raise UserError(
                f"the latency table is of space {measured.space} with {measured.classes} classes "
                f"({measured.space_digest}), not of {space.name} ({space.digest}); run `nd.profile()` for that one"
            )


def network_terms(
    entries: Mapping[str, Timing], space: SearchSpace, arch: Arch, role: Role, timing: Timing
) -> MeasuredNetwork:
    """Return a measured network as a table keeps it; raises `UserError` naming blocks that `entries` lack."""
    return MeasuredNetwork(arch.to_json(), role, *_sums(entries, space.plan(arch)), timing)


def _sums(entries: Mapping[str, Timing], plan: Plan) -> tuple[float, int, int]:
    """Return the terms of a calibration."""
    missing = sorted({key for key in plan.keys if key not in entries})
    if missing:
        raise _lacks(missing)
    total = plan.total(lambda block: entries[block.key].undisturbed)
    return total, plan.total(lambda block: 1), plan.total(lambda block: block.params)


def entry_cost(entries: Mapping[str, Timing]) -> SlotCost:
    """Return the cost that is the seconds of a slot's block by its entry, undisturbed and not calibrated.

    It raises `UserError` for a block without one.
    """

    def cost(slot: Slot, block: Block) -> float:
        if block.key not in entries:
            raise _lacks([block.key])
        return slot.part.runs * entries[block.key].undisturbed

    return cost


def _lacks(keys: Sequence[str]) -> UserError:
    shown = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
    return UserError(f"the latency table has no entry for {shown}; measure the space with `nd.profile()`")


def _undisturbed(known: Sequence[MeasuredNetwork]) -> LatencyCalibration:
    """Fit the map from sums of entries to undisturbed seconds of networks.

    Finalists of a search are alike: they correct how fast the machine is, not what a parameter costs.
    """
    calibrating = [network for network in known if network.role == "calibration"]
    found = fit(_terms(calibrating or known), [network.timing.undisturbed for network in calibrating or known])
    if len(calibrating) in (0, len(known)):
        return found
    return fit(_terms(known), [network.timing.undisturbed for network in known], found.per_param)


def _terms(networks: Sequence[MeasuredNetwork]) -> Floats:
    return np.array([(n.entries, n.blocks, n.params) for n in networks], dtype=np.float64).reshape(-1, 3)


def predicted(calibration: LatencyCalibration, networks: Sequence[MeasuredNetwork]) -> list[float]:
    """Return the seconds of measured networks, from their terms."""
    found: list[float] = calibration(_terms(networks)).tolist()
    return found


def _require_version(data: Mapping[str, Any], path: Path) -> None:
    """Refuse another version before anything else: what it wrote is not damaged."""
    version = data.get("schema_version")
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: a latency table in version {version} of its form, and this nasdeploy reads version "
            f"{SCHEMA_VERSION}; measure again with `nd.profile(restart=True)`"
        )


def _checksum(data: Json) -> str:
    return sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _lines(data: Mapping[str, Json]) -> str:
    """Return JSON with a line for each entry and each network, so that a person and a `diff` can read it."""
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {_member(value)}" for key, value in data.items()) + "\n}\n"


def _member(value: Json) -> str:
    if isinstance(value, list):
        return "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in value) + "\n]"
    if isinstance(value, dict):
        return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(item)}" for key, item in value.items()) + "\n}"
    return json.dumps(value)


# -- where tables lie


def table_path(space: SearchSpace, device: Device, folder: Path = TABLES) -> Path:
    """Return the file of the table of `space` on `device`, whether or not there is one."""
    return folder / f"{device.name}-{space.name}-{space.digest}-{space.output_size}.json"


def find_table(space: SearchSpace, device: Device, folder: Path = TABLES) -> LatencyTable:
    """Read the table of `space` on `device`; raises `UserError` if there is none, or it is damaged or of another."""
    path = table_path(space, device, folder)
    if not path.exists():
        raise UserError(
            f"{path}: no latency table yet of space {space.name} with {space.output_size} classes on device "
            f"{device.name}; measure it with `nd.profile(device={device.name})`"
        )
    table = LatencyTable.load(path)
    table.require_space(space)
    return table
