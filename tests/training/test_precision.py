"""Mixed precision: near float32's gradients, resumable, and fp16 gradients that overflow only shrink their scale."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.nn.network import layout_for
from nasdeploy.store.run import Run
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.image_data import distillation_loss, label_loss
from nasdeploy.tasks.task import Objective
from nasdeploy.training.checkpoint import Checkpoints, Position, TrainingState
from nasdeploy.training.optimizer import gradient_scaler, layout_of, mixed_precision, overflowed, set_tf32
from nasdeploy.training.sampling import draw
from nasdeploy.training.sandwich import Losses, SandwichStep, StepComputation
from nasdeploy.training.settings import TrainSettings
from nasdeploy.training.step_settings import DistillationSettings
from nasdeploy.workflows import train as step
from tests.nn.reference import randomise
from tests.small_spaces import two_stages
from tests.training.recipes import tiny_recipe

CPU = torch.device("cpu")
QUIET = Progress(quiet=True)


def gradients(settings: TrainSettings) -> tuple[Losses, dict[str, Tensor]]:
    torch.manual_seed(0)
    supernet = Supernet(two_stages())
    randomise(supernet)
    scaler = gradient_scaler(settings, CPU)
    objective = Objective(partial(label_loss, smoothing=0.1), distillation_loss(DistillationSettings()))
    execution = StepComputation(precision=lambda: mixed_precision(settings, CPU), scale=scaler.scale)
    made = SandwichStep(supernet, Classification(), objective, {}, execution=execution)
    torch.manual_seed(1)
    images, labels = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    losses = made(draw(supernet.space, 2, np.random.default_rng(0)), (images,), labels)
    found = {name: p.grad / scaler.get_scale() for name, p in supernet.named_parameters() if p.grad is not None}
    return losses, found


@pytest.mark.parametrize(("kind", "cosine"), [("bf16", 0.95), ("fp16", 0.995)])
def test_gradients_point_where_those_of_float32_do(kind: str, cosine: float) -> None:
    exact_losses, exact = gradients(TrainSettings())
    losses, found = gradients(TrainSettings(autocast=kind))  # type: ignore[arg-type]
    assert found.keys() == exact.keys()
    assert all(value.dtype == torch.float32 for value in found.values())
    assert losses != exact_losses
    assert losses.by_role["largest"] == pytest.approx(exact_losses.by_role["largest"], rel=0.05)
    one, other = (torch.cat([g[name].flatten() for name in exact]) for g in (exact, found))
    assert torch.cosine_similarity(one, other, dim=0) > cosine


def trained(*assignments: str) -> Run:
    recipe = tiny_recipe("train.validate_random=0", *assignments)
    run = step.train(recipe, step.default_directory(recipe), QUIET)
    assert run is not None
    return run


def newest(run: Run) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(Checkpoints(run.checkpoints).latest(), weights_only=True)
    return content


def test_fp16_ends_in_finite_weights_and_keeps_its_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = newest(trained("train.autocast=fp16", "train.epochs=1"))
    assert all(value.isfinite().all() for value in content["weights"].values())
    assert content["scaler"]["scale"] > 1


def test_a_run_without_loss_scaling_has_no_scale_in_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert newest(trained("train.epochs=1"))["scaler"] == {}


def restored(checkpoints: Checkpoints, state: TrainingState) -> None:
    found = checkpoints.newest()
    assert found is not None
    found.restore(state)


def test_the_scale_is_resumed_and_a_checkpoint_without_it_refused(tmp_path: Path) -> None:
    supernet = Supernet(two_stages())
    plain = TrainingState.fresh(supernet, TrainSettings())
    kept, resumed = (TrainingState.fresh(supernet, TrainSettings(autocast="fp16")) for _ in range(2))
    kept.scaler.load_state_dict({**kept.scaler.state_dict(), "scale": 8.0, "_growth_tracker": 3})
    kept.position, plain.position = Position(epoch=1), Position(epoch=2)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(kept)
    restored(checkpoints, resumed)
    assert resumed.scaler.state_dict() == kept.scaler.state_dict()
    assert resumed.scaler.get_scale() == 8.0
    checkpoints.save(plain)
    with pytest.raises(UserError, match=r"epoch-000002.pt: damaged; delete it to go on from the one before"):
        restored(checkpoints, resumed)


def test_an_overflow_shrinks_the_scale_and_does_not_count_as_divergence() -> None:
    scaler = gradient_scaler(TrainSettings(autocast="fp16"), CPU)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    before = scaler.scale(torch.ones(())).item()
    weight.grad = torch.full((1,), torch.inf)
    scaler.unscale_(optimizer)
    assert overflowed(scaler, float("inf"))
    scaler.update()
    assert scaler.get_scale() == before / 2
    assert not overflowed(scaler, 1.0)
    assert not overflowed(gradient_scaler(TrainSettings(), CPU), float("inf"))


def test_tf32_is_what_the_recipe_says() -> None:
    for wanted in (True, False):
        set_tf32(TrainSettings(tf32=wanted))
        assert torch.backends.cuda.matmul.allow_tf32 is wanted
        assert torch.backends.cudnn.allow_tf32 is wanted


def test_the_layout_is_the_fastest_unless_the_recipe_names_one() -> None:
    last, first = torch.channels_last, torch.contiguous_format
    for device, fp32 in ((CPU, last), (torch.device("cuda"), first)):
        assert layout_for(device) is fp32
        assert layout_of(TrainSettings(), device) is fp32
        assert layout_of(TrainSettings(tf32=True), device) is last
        assert layout_of(TrainSettings(autocast="bf16"), device) is last
        assert layout_of(TrainSettings(channels_last=True), device) is last
        assert layout_of(TrainSettings(channels_last=False), device) is first


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UserError, match=r"train.autocast is \"int4\""):
        tiny_recipe("train.autocast=int4")
