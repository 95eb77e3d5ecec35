"""What each mechanism of the measuring protocol is worth: errors of tables that are made without it.

Run by `python -m tests.benchmarks.bench_profile --ablate`. Blocks and networks of one space are measured in two
campaigns by the protocol as it is, and in a third one without what changes how a group is measured; all timings of all
passes are kept. Every other variant is made of the first campaign's timings: so they differ by the mechanism alone.
Errors are on networks held out, as the same campaign measured them and as the second one did.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from types import TracebackType

import numpy as np

from nasdeploy.core.arch import Arch
from nasdeploy.core.costs import Floats
from nasdeploy.core.progress import Progress
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.calibration import LatencyCalibration, fit, relative_deviation, relative_errors
from nasdeploy.latency.campaign import POWERS, Campaign, Journal, drift_corrected_table
from nasdeploy.latency.machine import Fingerprint
from nasdeploy.latency.profile import block_models, choose_networks, network_model, reference_model
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, Timing, quality, usual_reference
from nasdeploy.latency.runners.open_runner import open_runner
from nasdeploy.latency.runners.runner import ModelMaker, Outcome, Runner
from nasdeploy.latency.table import Conditions, LatencyTable, MeasuredNetwork, Role
from nasdeploy.runtimes.device import Device

Timings = dict[str, Timing]
FINALISTS = 8
"""The number of held-out networks, the nearest to the middle of the range, that play the finalists of a search."""
SENSED = ("throttling", "quota")


class Recording:
    """A runner that keeps the timings of each pass, which a campaign replaces by better ones."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.passes: list[Timings] = []

    @property
    def fingerprint(self) -> Fingerprint:
        """The machine's fingerprint."""
        return self._runner.fingerprint

    def measure(
        self,
        models: Mapping[str, ModelMaker],
        rounds: Rounds,
        protocol: MeasurementProtocol,
        *,
        on_visits: Callable[[int], None],
        reference: ModelMaker | None = None,
    ) -> Iterator[dict[str, Outcome]]:
        """Measure with the runner, and keep what it yields."""
        self.passes.append({})
        for outcomes in self._runner.measure(models, rounds, protocol, on_visits=on_visits, reference=reference):
            self.passes[-1].update({key: each for key, each in outcomes.items() if isinstance(each, Timing)})
            yield outcomes

    def __enter__(self) -> "Recording":
        self._runner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.__exit__(kind, error, trace)


@dataclass(frozen=True)
class Measured:
    """The timings of one campaign: those of blocks and of networks, pass after pass, and the seconds that it took."""

    protocol: MeasurementProtocol
    blocks: list[Timings]
    networks: list[Timings]
    roles: Mapping[Arch, Role]
    seconds: float


def measured(
    space: SearchSpace, device: Device, protocol: MeasurementProtocol, roles: Mapping[Arch, Role] | None = None
) -> Measured:
    """Measure blocks, and the networks of `roles`, by default those that a table would have."""
    start = perf_counter()
    blocks = block_models(space.distinct_blocks(), device)
    with TemporaryDirectory() as folder, Recording(open_runner(device)) as runner:
        conditions = Conditions.of(space, device, runner.fingerprint, protocol)
        journal, progress = Journal(Path(folder, "journal.jsonl"), conditions), Progress(quiet=True)
        campaign = Campaign(runner, protocol, journal, progress, partial(reference_model, space, device))
        entries = campaign.timings("blocks", blocks, protocol.blocks)
        of_blocks, runner.passes = runner.passes, []
        roles = choose_networks(space, entries, protocol) if roles is None else roles
        networks = {arch.text: partial(network_model, space.plan(arch), device) for arch in roles}
        campaign.timings("networks", networks, protocol.networks)
    return Measured(protocol, of_blocks, runner.passes, roles, perf_counter() - start)


def best(passes: Sequence[Timings], protocol: MeasurementProtocol) -> Timings:
    """Return the best timing of each key, as a campaign keeps it."""
    found = dict(passes[0])
    for again in passes[1:]:
        usual = usual_reference(found.values())
        for key, timing in again.items():
            found[key] = max(found[key], timing, key=lambda each: quality(each, usual, protocol.drift_above))
    return found


Change = Callable[[Timing], Timing]


@dataclass(frozen=True)
class Ablation:
    """Tables of one campaign's timings, each made without one mechanism."""

    space: SearchSpace
    device: Device
    fingerprint: Fingerprint
    of: Measured

    def table(
        self, *, passes: int | None = None, powers: Sequence[float] = POWERS, change: Change = lambda timing: timing
    ) -> LatencyTable:
        """Make a table of the first `passes` passes, of drift corrected by one of `powers`, of changed timings."""
        blocks, networks = (
            best([{key: change(each) for key, each in some.items()} for some in found[:passes]], self.of.protocol)
            for found in (self.of.blocks, self.of.networks)
        )
        conditions = Conditions.of(self.space, self.device, self.fingerprint, self.of.protocol)
        measured_networks = {arch: networks[arch.text] for arch in self.of.roles}
        return drift_corrected_table(
            self.space, conditions, "ablation", blocks, measured_networks, self.of.roles, powers
        )


def held_out(table: LatencyTable) -> list[MeasuredNetwork]:
    """Return the held-out networks of a table."""
    return [network for network in table.networks if network.role == "held-out"]


def terms(networks: Sequence[MeasuredNetwork]) -> Floats:
    """Return what a calibration is of: sums of entries, numbers of blocks, parameters."""
    return np.array([(each.entries, each.blocks, each.params) for each in networks], dtype=np.float64)


def undisturbed(networks: Sequence[MeasuredNetwork]) -> Floats:
    """Return their undisturbed seconds."""
    return np.array([each.timing.undisturbed for each in networks])


def predicted_by(table: LatencyTable) -> Floats:
    """Return the undisturbed seconds that a table predicts for its held-out networks."""
    return table.calibration(terms(held_out(table))) / table.median_ratio


def calibrated(table: LatencyTable, calibration: LatencyCalibration) -> Floats:
    """Return what another calibration predicts for a table's held-out networks."""
    return calibration(terms(held_out(table)))


def percent(predicted: Floats, seconds: Floats) -> str:
    """Return the mean and the 95th percentile of absolute relative errors, in words."""
    errors = np.abs(relative_errors(predicted.tolist(), seconds.tolist()))
    return f"{100 * errors.mean():6.2f} {100 * np.percentile(errors, 95):6.2f}"


def _median(timing: Timing) -> Timing:
    return replace(timing, p10=timing.median)


def report_variants(ablation: Ablation, repeated: Ablation, shorter: Ablation) -> None:
    """Print the errors of a table without each mechanism."""
    whole, again = ablation.table(), repeated.table()
    other = undisturbed(held_out(again))
    networks = [network for network in whole.networks if network.role == "calibration"]
    linear = fit(terms(networks), undisturbed(networks).tolist(), loss="linear")
    plain = undisturbed(held_out(whole))
    rows = {
        "as it is": (predicted_by(whole), plain),
        "measured once more, as it is": (predicted_by(again), undisturbed(held_out(again))),
    }
    without = {
        "drift correction": ablation.table(powers=(0.0,)),
        "measuring again (retries=0)": ablation.table(passes=1),
        "sensors": ablation.table(change=lambda each: replace(each, noise="") if each.noise in SENSED else each),
        "shortest time of a group": shorter.table(),
    }
    rows |= {f"without {name}": (predicted_by(made), undisturbed(held_out(made))) for name, made in without.items()}
    rows |= {
        "without soft L1 (least squares)": (calibrated(whole, linear), plain),
        "without calibration (plain sum)": (terms(held_out(whole))[:, 0], plain),
    }
    medians, medians_again = ablation.table(change=_median), repeated.table(change=_median)
    print(f"{'mean and p95 of errors on held-out networks, %':48}   as measured then   as measured again")
    for name, (predictions, then) in rows.items():
        print(f"{name:48}   {percent(predictions, then):>16}   {percent(predictions, other):>17}")
    then, now = percent(predicted_by(medians), undisturbed(held_out(medians))), undisturbed(held_out(medians_again))
    print(f"{'without 10th percentiles (medians)':48}   {then:>16}   {percent(predicted_by(medians), now):>17}")
    print(f"drift was corrected by a power of {whole.steadied:g}, and {again.steadied:g} when measured once more")


def report_finalists(table: LatencyTable) -> None:
    """Print what the fit in two stages is worth where a search has measured networks that are alike."""
    out = held_out(table)
    if len(out) <= 2 * FINALISTS:
        return
    by_distance = np.argsort(np.abs(np.log(undisturbed(out) / np.median(undisturbed(out)))))
    chosen = [out[number] for number in by_distance[:FINALISTS]]
    rest = [out[number] for number in sorted(by_distance[FINALISTS:])]
    known = [network for network in table.networks if network.role == "calibration"]
    first = fit(terms(known), undisturbed(known).tolist())
    both = [*known, *chosen]
    fits = {
        "no finalists": first,
        "finalists, in two stages": fit(terms(both), undisturbed(both).tolist(), first.per_param),
        "finalists, in one stage": fit(terms(both), undisturbed(both).tolist()),
    }
    print(f"{'errors on the ' + str(len(rest)) + ' other held-out networks, %':48}")
    for name, found in fits.items():
        print(f"{name:48}   {percent(found(terms(rest)), undisturbed(rest)):>16}")


def report_uncertainty(table: LatencyTable, again: LatencyTable) -> None:
    """Print how well one deviation, and one for each third, tell the errors of another measurement."""
    predictions = predicted_by(table)
    order = np.argsort(predictions)
    then, now = undisturbed(held_out(table)), undisturbed(held_out(again))
    one = relative_deviation(predictions.tolist(), then.tolist())
    for name, third in zip(("fast", "middle", "slow"), np.array_split(order, 3), strict=True):
        own = relative_deviation(predictions[third].tolist(), then[third].tolist())
        seen = relative_deviation(predictions[third].tolist(), now[third].tolist())
        print(f"uncertainty, {name} third: one {100 * one:.2f} %, its own {100 * own:.2f} %, seen {100 * seen:.2f} %")


def ablate(space: SearchSpace, device: Device, protocol: MeasurementProtocol) -> None:
    """Measure a space and print the errors without each mechanism."""
    first = measured(space, device, protocol)
    second = measured(space, device, protocol, first.roles)
    third = measured(space, device, replace(protocol, shortest_group_s=0.0), first.roles)
    with open_runner(device) as runner:
        fingerprint = runner.fingerprint
    whole, again, shorter = (Ablation(space, device, fingerprint, each) for each in (first, second, third))
    for name, each in {"as it is": first, "once more": second, "shortest_group_s=0": third}.items():
        timings = [timing for some in (*each.blocks[:1], *each.networks[:1]) for timing in some.values()]
        noisy = sum(timing.noisy for timing in timings)
        sensed = sum(timing.noise in SENSED for timing in timings)
        repeated = sum(len(some) for some in (*each.blocks[1:], *each.networks[1:]))
        references = [timing.reference for timing in timings if timing.reference is not None]
        usual = usual_reference(timings)
        drift = max(max(one / usual, usual / one) for one in references) if usual else 1.0
        print(
            f"{name}: {len(each.blocks[0])} blocks, {len(each.networks[0])} networks in {each.seconds:.0f} s; "
            f"{noisy} noisy, {sensed} by the sensors, {repeated} measured again; reference up to {drift:.2f} times off"
        )
    tables = whole.table(), again.table()
    report_variants(whole, again, shorter)
    report_finalists(tables[0])
    report_uncertainty(*tables)
