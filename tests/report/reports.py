"""Reports without runs: one of everything that a page can show, and what a run has before its steps."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from nasdeploy.core.score import Metric
from nasdeploy.latency.calibration import HeldOutError
from nasdeploy.report.architecture import DrawnBlock, DrawnNetwork, DrawnStage
from nasdeploy.report.artefacts import (
    ConfusedPair,
    PredictionReport,
    ProofFigures,
    ProvenLatency,
    ShownArtefact,
    ShownExport,
    WrongImage,
)
from nasdeploy.report.figures import Box
from nasdeploy.report.latency import PredictedNetwork, SlowBlock, TableReport
from nasdeploy.report.networks import (
    BudgetBound,
    FrontPoint,
    FrontReport,
    MeasuredLatency,
    Regime,
    ScoredNetwork,
    SubNetworks,
)
from nasdeploy.report.run import Reproduction, RunReport, RunSummary
from nasdeploy.report.training import PhaseSpan, ScoreCurve, TrainingCurves
from nasdeploy.searching.result import Fidelity
from nasdeploy.tasks.metrics import TOP1

AT = "2026-11-27T05:07:47+00:00"
DEVICE = "cpu"
DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAIAQAAAADsdIMmAAAAFElEQVR4nGNk"
    "+M/AxMDAwMTAxAAACwgBBwWC1XAAAAAASUVORK5CYII="
)


def arch_of(seed: int) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    return {
        "resolution": int(draw.choice([8, 16])),
        "width": [16, 24, int(draw.choice([40, 48]))],
        "depth": [1, int(draw.choice([1, 2, 3]))],
        "kernel_size": [3, int(draw.choice([3, 5]))],
    }


def digest(seed: int) -> str:
    return f"{seed:012x}"


def scored(count: int = 60) -> tuple[ScoredNetwork, ...]:
    draw = np.random.default_rng(0)
    macs = sorted(int(value) for value in draw.uniform(2e5, 1.2e6, count))
    return tuple(
        ScoredNetwork(
            digest=digest(place),
            arch=arch_of(place),
            macs=value,
            params=30_000 + place,
            predicted_ms={DEVICE: 0.05 + 1e-7 * value},
            value=float(0.9 + 0.08 * (place / count) + 0.01 * draw.standard_normal()),
            error=0.01,
            loss=0.3,
            samples=216,
        )
        for place, value in enumerate(macs)
    )


def point(one: ScoredNetwork, measured: bool = False, **more: Any) -> FrontPoint:
    median = 1.04 * one.predicted_ms[DEVICE]
    timing = MeasuredLatency(median, 0.95 * median, 1.1 * median, 1.2 * median)
    made = FrontPoint(
        digest=one.digest,
        arch=one.arch,
        chosen=False,
        original=False,
        tied=False,
        value=one.value,
        error=one.error,
        cost=one.predicted_ms[DEVICE],
        uncertainty=0.01,
        costs={"macs": 1e-6 * one.macs},
        predicted_ms=one.predicted_ms,
        measured_ms={DEVICE: timing} if measured else {},
    )
    return replace(made, **more)


def search() -> FrontReport:
    networks = scored()
    winner = point(networks[40], measured=True, chosen=True)
    bound = BudgetBound("latency", f"latency on {DEVICE}", "ms", None, 0.15)
    return FrontReport(
        id="1",
        finished=AT,
        strategy="evolution",
        criterion="metric",
        devices=(DEVICE,),
        precision="fp32",
        evaluated=len(networks),
        rounds=3,
        samples=216,
        axis=f"latency in ms on {DEVICE}",
        is_latency=True,
        bounds=(bound,),
        axis_bound=bound,
        front=tuple(point(one) for one in networks[::10]),
        finalists=(winner, *(point(one, measured=True) for one in networks[36:40])),
        winner=winner,
        as_fast=(),
        units={"macs": "M"},
        latency_fidelity={DEVICE: Fidelity(networks=5, tau=0.8)},
        accuracy_fidelity=None,
    )


def curves(title: str = "supernet") -> TrainingCurves:
    epochs = tuple(range(1, 13))
    return TrainingCurves(
        title=title,
        epochs=epochs,
        planned=12,
        phases=(PhaseSpan("original", 1, 4, 4), PhaseSpan("elastic", 5, 12, 8)),
        losses={
            "largest": tuple(2.0 / epoch for epoch in epochs),
            "random": tuple(2.5 / epoch if epoch > 4 else None for epoch in epochs),
            "smallest": tuple(3.0 / epoch if epoch > 4 else None for epoch in epochs),
        },
        scores={
            "smallest": curve(0.8),
            "largest": curve(0.9),
            "random_8098dd847aff": curve(0.83),
            "random_e76c3d70ce1e": curve(0.85),
        },
        samples=216,
        learning_rate=tuple(0.1 / epoch for epoch in epochs),
        gradient_norm=tuple(1.0 for _ in epochs),
        samples_per_s=tuple(140.0 for _ in epochs),
        peak_memory_gib=tuple(1.0 for _ in epochs),
        skipped_steps=tuple(0.0 for _ in epochs),
    )


def curve(best: float) -> ScoreCurve:
    known = [epoch % 3 == 0 for epoch in range(1, 13)]
    values = tuple(best * (1 - 0.5 / epoch) if known[epoch - 1] else None for epoch in range(1, 13))
    return ScoreCurve(
        values, tuple(0.01 if one else None for one in known), tuple(0.3 if one else None for one in known)
    )


def table() -> TableReport:
    draw = np.random.default_rng(1)
    return TableReport(
        file="profiles/tables/cpu-digits-f9aad47bc356-10.json",
        device=DEVICE,
        runtime="onnxruntime",
        runtime_version="onnxruntime 1.32.0",
        precision="fp32",
        batch=1,
        threads=1,
        processor="AMD EPYC (family 25, model 1)",
        created=AT,
        entries=96,
        low_ms=0.05,
        high_ms=0.2,
        uncertainty=0.08,
        p95_ratio=1.3,
        held_out=HeldOutError(40, 0.06, 0.15, 0.5, 0.8, 0.97, 0.9, (0.06, 0.06, 0.06)),
        held_out_undisturbed=HeldOutError(40, 0.05, 0.12, 0.6, 0.9, 0.98, 0.92, (0.05, 0.05, 0.05)),
        networks=tuple(
            measured_network(place, 0.05 + 0.0025 * place, float(1 + 0.06 * draw.standard_normal()))
            for place in range(64)
        ),
        noise={"spread": 12, "drift": 0},
        drift=(0.97, 1.12),
        steadied=0.25,
        slowest=tuple(SlowBlock(f"InvertedResidual(side={side},in_channels=32)", 0.02, "") for side in (4, 8)),
    )


def measured_network(place: int, predicted_ms: float, ratio: float) -> PredictedNetwork:
    return PredictedNetwork(
        digest=digest(place),
        arch=arch_of(place),
        role="calibration" if place % 3 == 0 else "held-out",
        predicted_ms=predicted_ms,
        measured_ms=ratio * predicted_ms,
        p10_ms=0.95 * ratio * predicted_ms,
        p90_ms=1.1 * ratio * predicted_ms,
        runs=90,
        at=AT,
        noise="spread" if place % 5 == 0 else "",
    )


def drawn(role: str, depth: int, kernel: int, widths: tuple[int, ...]) -> DrawnNetwork:
    stages = [stage("stem", 1, 3, None, 1, widths[0], 16)]
    for place, (given, width) in enumerate(pairwise(widths)):
        blocks, expansion = (depth, 4.0) if place else (1, 1.0)
        stages.append(stage(f"stage {place + 1}", blocks, kernel, expansion, given, width, 16 >> place))
    stages.append(stage("head", 1, None, None, widths[-1], 10, None))
    total = sum(one.latency_ms[DEVICE] for one in stages)
    stages = [replace(one, share={DEVICE: one.latency_ms[DEVICE] / total}) for one in stages]
    return DrawnNetwork(
        role=role,
        digest=digest(40),
        arch=arch_of(40),
        names=(),
        resolution=16,
        macs=sum(one.macs for one in stages),
        params=sum(one.params for one in stages),
        predicted_ms={DEVICE: total + 0.01},
        offset_ms={DEVICE: 0.01},
        stages=tuple(stages),
    )


def stage(
    name: str, depth: int, kernel: int | None, expansion: float | None, given: int, width: int, side: int | None
) -> DrawnStage:
    blocks = tuple(
        DrawnBlock(
            name=f"{name}_block{place + 1}",
            kind="InvertedResidual",
            key="InvertedResidual()",
            in_channels=width if place else given,
            out_channels=width,
            side=side,
            stride=1,
            kernel_size=kernel,
            expansion=expansion,
            macs=1000 * width,
            params=100 * width,
            latency_ms={DEVICE: 0.0005 * width * (kernel or 1)},
        )
        for place in range(depth)
    )
    return DrawnStage(
        name=name,
        blocks=blocks,
        width=width,
        kernel_sizes=() if kernel is None else (kernel,) * depth,
        expansions=() if expansion is None else (expansion,) * depth,
        macs=sum(block.macs for block in blocks),
        params=sum(block.params for block in blocks),
        latency_ms={DEVICE: sum(block.latency_ms[DEVICE] for block in blocks)},
        share={},
    )


def export() -> ShownExport:
    latency = ProvenLatency(
        median_ms=0.128, p10_ms=0.12, p90_ms=0.14, p95_ms=0.15, runs=700, noisy=False, usual_ms=0.126,
        predicted_ms=0.125, after_gap_ms=0.2, gap_ms=100.0, images_per_s=7800.0, times_fp32=None, remarks=(),
    )  # fmt: skip
    proof = ProofFigures(
        problems=(), computed_in="fp32", difference=1.4e-6, allowed=1e-4, batches=(1, 2, 7, 32, 33), value=0.9861,
        interval=(0.968, 0.994), value_pytorch=0.9861, samples=360, unreadable=0, changed=0, top5=1.0, classes=(),
        latency=latency, load_s=0.08, peak_bytes=112_971_776,
    )  # fmt: skip
    file = ShownArtefact(
        format="onnx", precision="fp32", file="model.onnx", files=("model.onnx",), bytes=138_000, sha256="ab" * 32,
        device=DEVICE, runtime="onnxruntime", not_run=None, kept_fp32=None, proof=proof,
    )  # fmt: skip
    return ShownExport(
        directory=f"runs/digits/export/{digest(40)}", created=AT, digest=digest(40), arch=arch_of(40), chosen=True,
        rejected=False, macs=900_000, params=30_040, input_text="float32 [batch, 1, 16, 16]", weights="the supernet's",
        budget={"latency_ms": 0.15}, artefacts=(file,), metric=TOP1, versions={},
    )  # fmt: skip


def predictions(labels: tuple[str, ...] = tuple("0123456789")) -> PredictionReport:
    pairs = [ConfusedPair(place, place, 35) for place in range(len(labels))]
    pairs += [ConfusedPair(8, 1, 3), ConfusedPair(3, 8, 2)]
    wrong = tuple(
        WrongImage(f"test/{truth}/{place}.png", truth, got, 0.99 - 0.03 * place, 0.005, DOT)
        for place, (truth, got) in enumerate([(8, 1)] * 3 + [(3, 8)] * 2)
    )
    right = sum(pair.images for pair in pairs if pair.truth == pair.predicted)
    return PredictionReport(
        digest(40), "model.onnx", labels, sum(pair.images for pair in pairs), right, tuple(pairs), wrong
    )


def report(name: str = "digits", metric: Metric = TOP1, **changes: Any) -> RunReport:
    """A report of a run with all steps behind it."""
    made = RunReport(
        summary=RunSummary(
            name=name, path=f"runs/{name}", created=AT, task="classification", space="digits", space_kind="table",
            space_digest="f9aad47bc356", networks=10_368, classes=tuple("0123456789"), outputs=10,
            images={"train": 1221, "search": 216, "test": 360}, start=None, device=DEVICE,
            finished=("train", "profile", "search", "export"),
        ),
        metric=metric,
        training=(curves(), curves(f"fine-tuning of {digest(40)}")),
        finetuned=(),
        sub_networks=SubNetworks(
            scored(), (Regime(2e5, 6e5, Box(9, 0.8, 0.85, 0.9, 0.92, 0.95)), Regime(6e5, 1.2e6, None))
        ),
        search=search(),
        tables=(table(),),
        networks=(
            drawn("smallest", 1, 3, (16, 16, 24)),
            drawn("chosen", 2, 5, (16, 24, 40)),
            drawn("largest", 3, 7, (16, 24, 48)),
        ),
        exports=(export(),),
        predictions=predictions(),
        reproduction=Reproduction(
            commands=("nasdeploy train digits --run runs/digits", "nasdeploy profile --device cpu --run runs/digits"),
            recipe_file="digits", is_shipped=True, recipe="name: digits\nseed: 0\n", seed=0,
            versions={"python": "3.11.7", "torch": "2.14.1"}, data_digest="9a53f99707171ea7606d65047523f564",
        ),
        remarks=(),
    )  # fmt: skip
    return replace(made, **changes)


def begun(name: str = "digits") -> RunReport:
    """A report of a run in which nothing is finished."""
    made = report(name)
    return replace(
        made,
        summary=replace(made.summary, finished=()),
        training=(), sub_networks=None, search=None, tables=(), exports=(), predictions=None,
        networks=tuple(one for one in made.networks if one.role != "chosen"),
    )  # fmt: skip
