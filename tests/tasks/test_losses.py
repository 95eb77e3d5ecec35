"""Distillation losses against the papers' formulas, written down here once more in NumPy and float64."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nasdeploy.tasks.image_data import (
    Distillation,
    adaptive_alpha_divergence,
    alpha_divergence,
    distillation_loss,
    kl_divergence,
    label_loss,
)
from nasdeploy.training.step_settings import DistillationSettings

Array = npt.NDArray[np.float64]
CLIP = 5.0
ALPHAS = [-1.0, -0.5, 0.0, 0.5, 1.0, 2.0]


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def divergence(p: Array, q: Array, alpha: float) -> Array:
    """AlphaNet, Eq. 4: sum over classes of q (f(p / q) - f(1)), importance weights clipped."""
    ratio = p / q
    if alpha == 1.0:
        return (q * ratio * np.log(ratio)).sum(-1)
    if alpha == 0.0:
        return (-q * np.log(np.minimum(ratio, CLIP))).sum(-1)
    scale = alpha * (alpha - 1)
    return (q * (np.minimum(ratio**alpha, CLIP) / scale - 1 / scale)).sum(-1)


def rho(p: Array, q: Array, alpha: float) -> Array:
    ratio = p / q
    if alpha == 1.0:
        return ratio
    if alpha == 0.0:
        return np.log(np.minimum(ratio, CLIP)) - 1
    return np.minimum(ratio**alpha, CLIP) / alpha + 1 / (alpha * (alpha - 1))


def surrogate(p: Array, q: Array, alpha: float) -> Array:
    return -(q * rho(p, q, alpha) * np.log(q)).sum(-1)


def surrogate_gradient(p: Array, q: Array, alpha: float) -> Array:
    """Of the surrogate with respect to the student's logits, everything but log q being constant."""
    weight = q * rho(p, q, alpha)
    return -(weight - q * weight.sum(-1, keepdims=True))


def logits(deviation: float, seed: int, samples: int = 6, classes: int = 5) -> tuple[Array, Array]:
    """Of student and teacher."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, deviation, (samples, classes)), rng.normal(0, deviation, (samples, classes))


def ours(student: Array, teacher: Array, alpha: float) -> tuple[Array, Array, Array]:
    """Divergences, surrogates, and gradients of the summed surrogates."""
    z = torch.tensor(student, requires_grad=True)
    log_p, log_q = F.log_softmax(torch.tensor(teacher), 1), F.log_softmax(z, 1)
    found, loss = alpha_divergence(log_p, log_q, alpha, CLIP)
    assert not found.requires_grad
    loss.sum().backward()
    return found.numpy(), loss.detach().numpy(), z.grad.numpy()


@pytest.mark.parametrize("deviation", [0.2, 3.0])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_divergence_surrogate_and_gradient_by_their_formulas(alpha: float, deviation: float) -> None:
    student, teacher = logits(deviation, seed=1, samples=50)
    p, q = softmax(teacher), softmax(student)
    clipped = alpha != 1.0 and ((p / q) ** (alpha or 1.0) > CLIP).any()
    assert clipped == (alpha != 1.0 and deviation == 3.0)
    found, loss, gradient = ours(student, teacher, alpha)
    np.testing.assert_allclose(found, divergence(p, q, alpha), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(loss, surrogate(p, q, alpha), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradient, surrogate_gradient(p, q, alpha), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_surrogates_gradient_is_the_divergences_where_nothing_is_clipped(alpha: float) -> None:
    student, teacher = logits(0.3, seed=2)
    p, step = softmax(teacher), 1e-5
    assert ((p / softmax(student)) ** (alpha or 1.0)).max() < CLIP
    slopes = np.zeros_like(student)
    for place in range(student.shape[1]):
        moved = np.zeros_like(student)
        moved[:, place] = step
        up, down = (divergence(p, softmax(student + sign * moved), alpha) for sign in (1, -1))
        slopes[:, place] = (up - down) / (2 * step)
    np.testing.assert_allclose(ours(student, teacher, alpha)[2], slopes, rtol=1e-6, atol=1e-9)


def test_with_alpha_one_the_gradient_is_that_of_the_kl_divergence() -> None:
    student, teacher = logits(3.0, seed=3)
    np.testing.assert_allclose(ours(student, teacher, 1.0)[2], softmax(student) - softmax(teacher), atol=1e-12)


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 1.0])
def test_divergences_are_not_negative_and_zero_for_equal_distributions(alpha: float) -> None:
    student, teacher = logits(0.3, seed=4, samples=100)
    assert (ours(student, teacher, alpha)[0] > 0).all()
    np.testing.assert_allclose(ours(student, student, alpha)[0], 0, atol=1e-12)


# -- adaptive choice


def adaptive(student: Tensor, teacher: Tensor) -> Tensor:
    return adaptive_alpha_divergence(student, teacher, -1.0, 1.0, CLIP)


@pytest.mark.parametrize("deviation", [0.3, 1.0, 3.0])
def test_each_sample_learns_from_its_larger_divergence(deviation: float) -> None:
    student, teacher = logits(deviation, seed=5, samples=200)
    p, q = softmax(teacher), softmax(student)
    high = divergence(p, q, 1.0) >= divergence(p, q, -1.0)
    # For very different networks the clipped divergence can hardly win.
    assert high.any()
    assert deviation == 3.0 or not high.all()
    z = torch.tensor(student, dtype=torch.float32, requires_grad=True)
    loss = adaptive(z, torch.tensor(teacher, dtype=torch.float32))
    torch.autograd.backward(loss)
    chosen = np.where(high, surrogate(p, q, 1.0), surrogate(p, q, -1.0))
    gradient = np.where(high[:, None], surrogate_gradient(p, q, 1.0), surrogate_gradient(p, q, -1.0))
    assert loss.item() == pytest.approx(chosen.mean(), rel=1e-5)
    np.testing.assert_allclose(z.grad.numpy(), gradient / 200, rtol=1e-4, atol=1e-7)


def test_a_tie_takes_alpha_max() -> None:
    z = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    q = np.full((1, 4), 0.25)
    assert adaptive(z, z).item() == pytest.approx(surrogate(q, q, 1.0).item())
    assert surrogate(q, q, 1.0).item() != pytest.approx(surrogate(q, q, -1.0).item())


def test_the_divergence_of_alpha_minus_one_never_exceeds_two() -> None:
    student, teacher = logits(10.0, seed=6, samples=500)
    assert ours(student, teacher, -1.0)[0].max() <= (CLIP - 1) / 2


EVERY = [
    {"kind": "alpha"},
    {"kind": "cross-entropy"},
    {"kind": "kl"},
    {"kind": "kl", "temperature": 0.5},
    {"kind": "kl", "temperature": 4.0},
]


def loss_of(changes: dict[str, object]) -> Distillation:
    loss = distillation_loss(DistillationSettings.model_validate(changes))
    assert loss is not None
    return loss


@pytest.mark.parametrize("changes", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits_stay_finite(changes: dict[str, object], dtype: torch.dtype) -> None:
    loss = loss_of(changes)
    signs = torch.tensor([[1, -1, 1], [-1, 1, 1], [1, 1, 1], [-1, -1, 1]], dtype=dtype)
    for teacher in (signs, -signs, signs.flip(0), torch.zeros_like(signs)):
        student = (100 * signs).requires_grad_()
        value = loss(student, 100 * teacher)
        assert value.dtype == torch.float32
        assert value.isfinite()
        torch.autograd.backward(value)
        assert student.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_label_loss_of_extreme_logits_is_finite(dtype: torch.dtype) -> None:
    logits = torch.tensor([[100.0, -100.0, 0.0], [-100.0, 100.0, 100.0]], dtype=dtype, requires_grad=True)
    value = label_loss(logits, torch.tensor([1, 0]), 0.1)
    assert value.dtype == torch.float32
    # -log q of the label is 200 and 200 + ln 2; over all classes its mean is 100 and (200 + 3 ln 2) / 3.
    assert value.item() == pytest.approx(0.9 * (200 + np.log(2) / 2) + 0.1 * (100 + 200 / 3 + np.log(2)) / 2, rel=1e-6)
    torch.autograd.backward(value)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("changes", EVERY)
def test_under_autocast_nothing_is_rounded(changes: dict[str, object]) -> None:
    student, teacher = (torch.tensor(z, dtype=torch.float32) for z in logits(3.0, seed=12))
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    plain = loss_of(changes)(student, teacher), label_loss(student, labels, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        under = loss_of(changes)(student, teacher), label_loss(student, labels, 0.1)
    assert under == plain


@pytest.mark.parametrize("changes", EVERY)
def test_float64_is_kept(changes: dict[str, object]) -> None:
    student, teacher = (torch.tensor(z) for z in logits(3.0, seed=13))
    single = loss_of(changes)(student.float(), teacher.float())
    value = loss_of(changes)(student, teacher)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(single.item(), rel=1e-5)
    assert label_loss(student, torch.zeros(6, dtype=torch.long), 0.1).dtype == torch.float64


@pytest.mark.parametrize("alpha", ALPHAS)
def test_extreme_logits_stay_finite_for_every_alpha(alpha: float) -> None:
    student, teacher = np.array([[100.0, -100.0, 0.0]]), np.array([[-100.0, 100.0, 0.0]])
    z = torch.tensor(student, dtype=torch.float32, requires_grad=True)
    log_p = F.log_softmax(torch.tensor(teacher, dtype=torch.float32), 1)
    found, loss = alpha_divergence(log_p, F.log_softmax(z, 1), alpha, CLIP)
    torch.autograd.backward(loss.sum())
    assert found.isfinite().all()
    assert loss.isfinite().all()
    assert z.grad.isfinite().all()


# -- KL, and the choice of a loss


def test_kl_is_torchs_own() -> None:
    student, teacher = (torch.tensor(z, dtype=torch.float32, requires_grad=True) for z in logits(2.0, seed=7))
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=teacher.detach()), torch.distributions.Categorical(logits=student)
    ).mean()
    found = kl_divergence(student, teacher)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, student)
    (other,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_with_a_temperature_by_its_formula_and_finite_differences(temperature: float) -> None:
    student, teacher = logits(2.0, seed=10)
    p, step = softmax(teacher / temperature), 1e-5

    def value(z: Array) -> float:
        q = softmax(z / temperature)
        return float(temperature**2 * (p * np.log(p / q)).sum(-1).mean())

    z = torch.tensor(student, requires_grad=True)
    loss = kl_divergence(z, torch.tensor(teacher), temperature)
    torch.autograd.backward(loss)
    assert loss.item() == pytest.approx(value(student), rel=1e-12)
    slopes = np.zeros_like(student)
    for place in np.ndindex(*student.shape):
        moved = np.zeros_like(student)
        moved[place] = step
        slopes[place] = (value(student + moved) - value(student - moved)) / (2 * step)
    np.testing.assert_allclose(z.grad.numpy(), slopes, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(z.grad.numpy(), temperature * (softmax(student / temperature) - p) / 6, atol=1e-12)


def test_cross_entropy_with_the_teachers_probabilities_by_its_formula() -> None:
    student, teacher = logits(2.0, seed=14)
    p, q = softmax(teacher), softmax(student)
    z = torch.tensor(student, requires_grad=True)
    loss = loss_of({"kind": "cross-entropy"})(z, torch.tensor(teacher))
    torch.autograd.backward(loss)
    assert loss.item() == pytest.approx(float(-(p * np.log(q)).sum(-1).mean()), rel=1e-12)
    np.testing.assert_allclose(z.grad.numpy(), (q - p) / 6, atol=1e-12)


def test_gradients_hardly_depend_on_a_high_temperature() -> None:
    # Hinton et al., 2015, section 2.1: the gradient tends to the difference of the centred logits over the classes.
    student, teacher = logits(1.0, seed=11)
    centred = [z - z.mean(-1, keepdims=True) for z in (student, teacher)]
    z = torch.tensor(student, requires_grad=True)
    torch.autograd.backward(kl_divergence(z, torch.tensor(teacher), 100.0))
    np.testing.assert_allclose(z.grad.numpy(), (centred[0] - centred[1]) / 5 / 6, atol=2e-3)


@pytest.mark.parametrize("kind", ["alpha", "kl", "cross-entropy"])
def test_the_teacher_learns_nothing(kind: str) -> None:
    loss = distillation_loss(DistillationSettings(kind=kind))
    assert loss is not None
    student, teacher = (torch.tensor(z, dtype=torch.float32, requires_grad=True) for z in logits(2.0, seed=8))
    torch.autograd.backward(loss(student, teacher))
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_settings_choose_the_loss() -> None:
    student, teacher = (torch.tensor(z, dtype=torch.float32) for z in logits(2.0, seed=9))
    assert distillation_loss(DistillationSettings(kind="none")) is None
    settings = DistillationSettings(alpha_min=-0.5, alpha_max=2.0, clip=3.0)
    found = distillation_loss(settings)
    assert found is not None
    assert found(student, teacher) == adaptive_alpha_divergence(student, teacher, -0.5, 2.0, 3.0)
    assert found(student, teacher) != adaptive(student, teacher)
    assert loss_of({"kind": "kl", "temperature": 3.0})(student, teacher) == kl_divergence(student, teacher, 3.0)
