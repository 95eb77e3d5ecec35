"""Once-for-all's training (Cai et al. 2020, section 3) against its formulas, written down here once more in float64."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor, nn

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.space import SearchSpace
from nasdeploy.spaces.mobilenet import drop_rates
from nasdeploy.spaces.ofa import OfaTable
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.classification import Classification
from nasdeploy.training.optimizer import give_zero_gradients, learning_rate, make_optimizer, set_learning_rate
from nasdeploy.training.sampling import SamplerContext, networks_to_validate, sampler_from
from nasdeploy.training.sandwich import Sandwich, SandwichStep
from nasdeploy.training.settings import TrainSettings
from nasdeploy.training.teacher import SizedTeacher
from tests.families.space import Writer
from tests.nn.reference import randomise
from tests.small_spaces import two_stages
from tests.training.test_phases import Stopping, phased, train
from tests.training.test_sampling import unasked
from tests.training.test_trainer import assert_same, outcome

TABLE = OfaTable.model_validate_json(
    """{"kind": "ofa", "name": "small-ofa", "resolution": [12, 16], "stem": {"width": 8},
    "first": {"width": 8, "activation": "relu"},
    "stages": [
        {"width": 8, "depth": [1, 2], "kernel": [3, 5, 7], "expand": [3, 4, 6], "stride": 1, "activation": "relu"},
        {"width": 16, "depth": [1, 2], "kernel": [3, 5, 7], "expand": [3, 4, 6], "stride": 2, "se": true}],
    "head": {"conv_channels": 16, "hidden_channels": 24}}"""
)
SPACE = TABLE.build(5)
Weights = Mapping[str, Tensor]
SETTINGS = {
    "epochs": 3,
    "warmup_epochs": 1,
    "warmup": "before-decay",
    "warmup_start": 1 / 32,
    "batch_size": 2048,
    "reference_batch": 2048,
    "learning_rate": 0.96,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 3e-5,
    "clip_value": None,
    "label_smoothing": 0.1,
    "unused_weights": "coast",
    "random_networks": 4,
    "sampling": {"kind": "uniform"},
    "distillation": {"kind": "cross-entropy", "label_weight": 1.0, "teacher": "run:teacher"},
}


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings.model_validate({**SETTINGS, **changes}, strict=False)


# -- learning rate


@pytest.mark.parametrize(("epochs", "warmup", "base"), [(120, 5, 0.03), (25, 0, 0.0025), (120, 5, 0.0075)])
def test_warm_up_comes_before_the_cosine(epochs: int, warmup: int, base: float) -> None:
    steps, top = 621, 32 * base
    found = settings(epochs=epochs + warmup, warmup_epochs=warmup, learning_rate=top)
    first, total = warmup * steps, epochs * steps
    at = np.arange(first + total)
    rising = base + (top - base) * (at + 1) / max(first, 1)
    falling = top / 2 * (1 + np.cos(np.pi * (at - first) / total))
    rates = [learning_rate(found, step, steps) for step in range(first + total)]
    np.testing.assert_allclose(rates, np.where(at < first, rising, falling), rtol=0, atol=1e-12)


# -- networks of a step


def drawn(space: SearchSpace, steps: int, **changes: Any) -> list[Sandwich]:
    sampler = sampler_from(SamplerContext(space, settings(**changes), 0))
    return [sampler.draw(np.random.default_rng(step), 0, unasked) for step in range(steps)]


def test_choices_are_uniform_and_independent() -> None:
    space = two_stages()
    sandwiches = drawn(space, 1500)
    assert all(list(each.networks) == ["random"] and each.leader is None for each in sandwiches)
    codes = np.stack([space.encode(each.archs) for each in sandwiches])
    names = [choice.name for choice in space.choices]
    resolution = codes[:, :, names.index("resolution")]
    assert (resolution == resolution[:, :1]).all()
    # One column for the resolution of a step; the other choices are those of each of its networks.
    columns = {"resolution": resolution[:, 0]}
    for number in range(2):
        columns |= {f"{number} {name}": codes[:, number, place] for place, name in enumerate(names) if place}
    columns = {name: column for name, column in columns.items() if column.max() > 0}
    tests = [chisquare(np.bincount(column)).pvalue for column in columns.values()]
    for a, b in combinations(columns.values(), 2):
        table = np.zeros((a.max() + 1, b.max() + 1))
        np.add.at(table, (a, b), 1)
        tests.append(chi2_contingency(table, correction=False).pvalue)
    assert min(tests) > 0.01 / len(tests)
    # Not too good to be true: values of p are uniform themselves.
    assert 0.4 < np.mean(tests) < 0.6


def test_stages_limit_what_is_drawn_and_what_is_validated() -> None:
    stages = [{"from_epoch": 0, "largest": {"kernel_size": 3, "depth": 1, "expand_ratio": 2}}]
    found = drawn(SPACE, 60, sampling={"kind": "uniform", "stages": stages})
    sampler = sampler_from(SamplerContext(SPACE, settings(sampling={"kind": "uniform", "stages": stages}), 0))
    (allowed,) = sampler.allowed(1)
    assert (allowed["kernel_size.3"], allowed["depth.1"], allowed["expand_ratio.0"]) == ((3, 5, 7), (2,), (4, 6))
    seen: dict[str, set[int]] = {}
    for arch in (arch for each in found for arch in each.archs):
        for name, value in arch.items():
            seen.setdefault(name.partition(".")[0], set()).add(value)
    assert seen == {"resolution": {12, 16}, "depth": {2}, "kernel_size": {3, 5, 7}, "expand_ratio": {4, 6}}
    context = SamplerContext(SPACE, settings(validate_random=2, sampling={"kind": "uniform", "stages": stages}), 0)
    validated = networks_to_validate(context)
    assert list(validated)[:5] == ["smallest", "largest", "kernel3-expand4", "kernel3-expand6", "kernel7-expand4"]
    assert len(validated) == 7
    assert validated["largest"] == SPACE.largest()
    for name, kernel, expand in (("smallest", 3, 4), ("kernel3-expand6", 3, 6), ("kernel7-expand4", 7, 4)):
        values = dict(validated[name])
        assert {value for key, value in values.items() if key.startswith("kernel")} == {kernel}
        assert {value for key, value in values.items() if key.startswith("expand")} == {expand}
        assert {values["depth.0"], values["depth.1"]} == {2}
        assert values["resolution"] == (12 if name == "smallest" else 16)
    assert all(arch["depth.0"] == 2 for arch in validated.values())


def test_ends_of_choices_that_differ_are_named_by_which_they_are() -> None:
    names = list(networks_to_validate(SamplerContext(two_stages(), settings(validate_random=0), 0)))
    assert len(names) == 2 + 2**4 - 1
    assert names[2] == "width-min-depth1-kernel3-expand-min"


def test_the_largest_network_alone_may_be_trained_at_every_resolution() -> None:
    sampling = {"kind": "largest", "resolutions": "all"}
    found = drawn(SPACE, 40, sampling=sampling)
    assert {arch["resolution"] for each in found for arch in each.archs} == {12, 16}
    assert all(each.leader == "largest" and len(each.archs) == 1 for each in found)
    largest = dict(SPACE.largest())
    assert all({**arch, "resolution": 16} == largest for each in found for arch in each.archs)


def test_no_network_at_all_and_coasting_without_momentum_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sampling\.kind uniform chooses random networks, and random_networks is 0"):
        settings(random_networks=0)
    with pytest.raises(ValueError, match="unused_weights: coast needs momentum; set unused_weights: rest"):
        settings(momentum=0.0, nesterov=False)
    with pytest.raises(ValueError, match="warmup: before-decay leaves none of the 3 epochs for the decay"):
        settings(warmup_epochs=3)
    with pytest.raises(ValueError, match="teacher_statistics has an effect only with teacher: original"):
        settings(distillation={"kind": "kl", "teacher_statistics": "batch"})
    with pytest.raises(ValueError, match="label_weight has an effect only with kind: alpha or kl or cross-entropy"):
        settings(distillation={"kind": "none", "label_weight": 1.0})


# -- a step


def rounded(value: float) -> int:
    found = max(8, 8 * int((value + 4) // 8))
    return found + 8 if found < 0.9 * value else found


def hswish(x: Tensor) -> Tensor:
    return x * F.relu6(x + 3) / 6


def normalised(x: Tensor, weights: Weights, name: str) -> Tensor:
    mean, channels = x.mean((0, 2, 3), keepdim=True), x.shape[1]
    scaled = (x - mean) / ((x - mean).square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
    gamma, beta = (weights[f"{name}.{each}"][:channels].view(1, -1, 1, 1) for each in ("weight", "bias"))
    return scaled * gamma + beta


def kernel(weights: Weights, slot: str, mid: int, size: int) -> Tensor:
    found = weights[f"{slot}.depthwise.weight"][:mid]
    for large, small in ((7, 5), (5, 3)):
        if size <= small:
            taps = found[:, 0, 1:-1, 1:-1].reshape(mid, small**2)
            found = (weights[f"{slot}.transforms.{large}to{small}"] @ taps.T).T.view(mid, 1, small, small)
    return found


def inverted(x: Tensor, weights: Weights, slot: str, size: int, expand: int, stride: int) -> Tensor:
    """A block of a stage: `stage2` has ReLU and no squeeze-and-excitation, `stage3` h-swish and both."""
    activation, inside = (hswish if slot.startswith("stage3") else F.relu), x.shape[1]
    mid = rounded(inside * expand)
    y = F.conv2d(x, weights[f"{slot}.expand.weight"][:mid])
    y = activation(normalised(y, weights, f"{slot}.expand_norm"))
    y = F.conv2d(y, kernel(weights, slot, mid, size), None, stride, size // 2, 1, mid)
    y = activation(normalised(y, weights, f"{slot}.depthwise_norm"))
    if slot.startswith("stage3"):
        hidden = rounded(mid // 4)
        gate = y.mean((2, 3)) @ weights[f"{slot}.reduce.weight"][:hidden, :mid, 0, 0].T
        gate = F.relu(gate + weights[f"{slot}.reduce.bias"][:hidden])
        gate = gate @ weights[f"{slot}.restore.weight"][:mid, :hidden, 0, 0].T + weights[f"{slot}.restore.bias"][:mid]
        y = y * (F.relu6(gate + 3) / 6)[:, :, None, None]
    y = normalised(F.conv2d(y, weights[f"{slot}.project.weight"][:, :mid]), weights, f"{slot}.project_norm")
    return x + y if stride == 1 and x.shape == y.shape else y


def logits_of(weights: Weights, images: Tensor, arch: Mapping[str, int]) -> Tensor:
    side = arch["resolution"]
    x = images if side == images.shape[-1] else F.interpolate(images, (side, side), mode="bicubic", align_corners=False)
    x = hswish(normalised(F.conv2d(x, weights["stem.conv.weight"], None, 2, 1), weights, "stem.norm"))
    first = "stage1_block1"
    y = F.relu(
        normalised(
            F.conv2d(x, weights[f"{first}.depthwise.weight"], None, 1, 1, 1, 8), weights, f"{first}.depthwise_norm"
        )
    )
    x = x + normalised(F.conv2d(y, weights[f"{first}.project.weight"]), weights, f"{first}.project_norm")
    for stage in (0, 1):
        for block in range(arch[f"depth.{stage}"]):
            place, stride = 2 * stage + block, 2 if (stage, block) == (1, 0) else 1
            chosen = arch[f"kernel_size.{place}"], arch[f"expand_ratio.{place}"]
            x = inverted(x, weights, f"stage{stage + 2}_block{block + 1}", *chosen, stride)
    x = hswish(normalised(F.conv2d(x, weights["head.conv.weight"]), weights, "head.conv_norm"))
    x = hswish(x.mean((2, 3)) @ weights["head.hidden.weight"][:, :, 0, 0].T)
    return x @ weights["head.classifier.weight"].T + weights["head.classifier.bias"]


def made(seed: int) -> Supernet:
    torch.manual_seed(seed)
    supernet = Supernet(SPACE).double()
    randomise(supernet)
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            if ".transforms." in name:
                parameter.add_(torch.randn_like(parameter) / 8)
    return supernet


def leaves(supernet: Supernet) -> dict[str, Tensor]:
    found = supernet.named_parameters()
    return {name.removeprefix("weights."): value.detach().clone().requires_grad_() for name, value in found}


def loss_of(weights: Weights, archs: tuple[Arch, ...], images: Tensor, labels: Tensor, taught: Tensor) -> Tensor:
    """The sum over networks of cross-entropy with the teacher's probabilities, and with the smoothed labels."""
    smoothed = 0.9 * F.one_hot(labels, 5).double() + 0.1 / 5
    target = taught.exp() / taught.exp().sum(1, keepdim=True) + smoothed
    logits = [logits_of(weights, images, arch) for arch in archs]
    return torch.stack([-(target * (z - z.exp().sum(1, keepdim=True).log())).sum(1).mean() for z in logits]).sum()


def test_steps_of_distillation_are_once_for_alls() -> None:
    """Losses, gradients and weights of three steps: what the only network of the second lacks coasts and decays."""
    supernet, original, found = made(0), made(1), settings()
    weights, of_teacher = leaves(supernet), leaves(original)
    velocity: dict[str, Tensor] = {}
    optimizer = make_optimizer(supernet, found)
    holder = nn.ModuleDict(dict(original.weights.items())).requires_grad_(False)
    teacher, task = SizedTeacher(holder, SPACE, Classification()), Classification()
    objective: Any = task.objective(found, None)  # type: ignore[arg-type]
    step = SandwichStep(supernet, task, objective, {}, teacher)
    first, third = drawn(SPACE, 2)
    alone = Sandwich({"random": (SPACE.smallest(),)}, leader=None)
    for number, sandwich in enumerate((first, alone, third)):
        images, labels = torch.randn(6, 3, 16, 16, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])
        largest = {**SPACE.largest(), "resolution": sandwich.archs[0]["resolution"]}
        expected = loss_of(weights, sandwich.archs, images, labels, logits_of(of_teacher, images, largest).detach())
        gradients = torch.autograd.grad(expected, list(weights.values()), allow_unused=True)
        set_learning_rate(optimizer, rate := learning_rate(found, number, 2))
        optimizer.zero_grad(set_to_none=True)
        losses = step(sandwich, (images,), labels)
        assert losses.by_role["random"] * len(sandwich.archs) == pytest.approx(expected.item(), abs=1e-9)
        assert sandwich is not alone or sum(gradient is None for gradient in gradients) > 20
        own = dict(supernet.named_parameters())
        give_zero_gradients(optimizer)
        with torch.no_grad():
            for (name, value), gradient in zip(weights.items(), gradients, strict=True):
                computed = own[f"weights.{name}"].grad
                if gradient is None and name not in velocity:
                    assert computed is None, name
                    continue
                gradient = torch.zeros_like(value) if gradient is None else gradient
                torch.testing.assert_close(computed, gradient, rtol=0, atol=1e-9, msg=name)
                decay = 0.0 if "norm" in name or "bias" in name else 3e-5
                change = gradient + decay * value
                velocity[name] = change if name not in velocity else 0.9 * velocity[name] + change
                value -= rate * (change + 0.9 * velocity[name])
        optimizer.step()
        for name, value in weights.items():
            torch.testing.assert_close(own[f"weights.{name}"].detach(), value.detach(), rtol=0, atol=1e-9, msg=name)
    assert any(".transforms." in name for name in velocity)


def test_every_network_of_a_step_is_regularised() -> None:
    supernet, (sandwich, *_) = made(0), drawn(SPACE, 1)
    images, labels = torch.randn(6, 3, 16, 16, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])
    objective: Any = Classification().objective(settings(distillation={"kind": "none"}), None)  # type: ignore[arg-type]

    def loss(rates: Mapping[str, float], networks: Sandwich) -> float:
        torch.manual_seed(0)
        (value,) = SandwichStep(supernet, Classification(), objective, rates)(
            networks, (images,), labels
        ).by_role.values()
        return value

    rates = drop_rates(SPACE, 0.5, 0.0)
    assert rates["head"] == 0.5
    for arch in sandwich.archs:
        alone = Sandwich({"random": (arch,)}, leader=None, all_regularised=True)
        assert loss(rates, alone) != pytest.approx(loss({}, alone))
        assert loss(rates, Sandwich({"random": (arch,)}, leader=None)) == loss({}, alone)


# -- a whole training

FULL = "{name: full, epochs: 1, sampling: {kind: largest, resolutions: all}, distillation: {kind: none}}"
ELASTIC = (
    "{name: elastic, epochs: 1, warmup_epochs: 0.5, warmup: before-decay, unused_weights: coast, "
    "sort_channels: projection, sampling: {kind: uniform, stages: [{from_epoch: 0, largest: {depth: 1}}]}, "
    "distillation: {kind: cross-entropy, label_weight: 1.0, teacher: original, teacher_statistics: batch}}"
)


def test_a_training_that_is_stopped_ends_as_an_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    more = ("train.checkpoint_steps=1", "train.validate_random=0", "recalibration.average=image-weighted")
    recipe = phased(FULL, ELASTIC, more=more)
    content, lines = outcome(train(recipe.model_copy(update={"name": "undisturbed"})))
    assert [line["loss_largest"] is None for line in lines] == [False, True]
    assert np.isfinite(lines[1]["loss_random"])
    assert {"largest", "smallest"} < set(lines[1]["validation"])
    with pytest.raises(KeyboardInterrupt):
        train(recipe, Stopping("elastic", 2))
    resumed, lines_then = outcome(train(recipe))
    assert_same(resumed, content)
    assert lines_then == lines


def test_a_space_without_resolutions_is_told() -> None:
    with pytest.raises(UserError, match="space writer has no resolutions; leave it out"):
        drawn(Writer(), 1, sampling={"kind": "largest", "resolutions": "all"})


def test_a_space_without_resolutions_has_uniform_networks() -> None:
    (found,) = drawn(Writer(), 1)
    assert len(found.archs) == 4
