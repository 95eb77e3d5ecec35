"""Networks with weights of their own: what a run keeps is what it gives back, and nothing else is read."""

import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nasdeploy.core.errors import UserError
from nasdeploy.core.score import Metric, Score
from nasdeploy.nn.network import Network
from nasdeploy.store.checkpoints import WeightsFacts
from nasdeploy.store.files import write_json
from nasdeploy.store.networks import (
    HeldOutScore,
    KeptNetwork,
    NetworkFacts,
    kept_network,
    kept_networks,
    kept_original,
    network_directory,
)
from nasdeploy.store.run import Run
from nasdeploy.supernet.networks import keep_network, load_network
from nasdeploy.supernet.supernet import Supernet, extract
from tests.nn.reference import randomise
from tests.small_spaces import one_stage

SPACE = one_stage()
ARCH = SPACE.largest()
CHECKPOINT = WeightsFacts(epoch=3, sha256="0" * 64)
ACCURACY = Metric("top1", "top-1", True, 1.0, "proportion")
SCORE = HeldOutScore(value=0.5, error=0.1, loss=None, samples=25)
ORIGINAL = NetworkFacts(kind="original", epochs=4, checkpoint=CHECKPOINT, after=SCORE)
FINETUNED = NetworkFacts(kind="finetuned", epochs=1, checkpoint=CHECKPOINT, inherited="original", before=SCORE)


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    supernet = Supernet(SPACE)
    randomise(supernet, seed)
    return extract(supernet, ARCH).eval()


def same(a: Network, b: Network) -> bool:
    ours, others = a.state_dict(), b.state_dict()
    return ours.keys() == others.keys() and all(torch.equal(ours[name], others[name]) for name in ours)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path, "x", recipe={}, space=SPACE.digest, seed=0)


@pytest.fixture
def kept(run: Run) -> KeptNetwork:
    return keep_network(run, ARCH, network(), ORIGINAL)


def test_what_is_kept_is_given_back_with_its_facts(run: Run, kept: KeptNetwork) -> None:
    found = kept_network(run, "original", ARCH.digest)
    assert found == kept
    assert found.record.model_dump(include=set(NetworkFacts.model_fields)) == ORIGINAL.model_dump()
    assert found.arch(SPACE) == ARCH
    read = load_network(found, SPACE)
    assert same(read, network())
    assert not read.training
    images = torch.rand(2, 3, 12, 12)
    assert torch.equal(read(images), network()(images))


def test_a_network_in_the_layout_of_training_is_kept_as_any(run: Run) -> None:
    laid_out = network().to(memory_format=torch.channels_last)
    assert same(load_network(keep_network(run, ARCH, laid_out, ORIGINAL), SPACE), network())


def test_both_kinds_of_one_architecture_are_kept_and_replaced_by_their_own(run: Run, kept: KeptNetwork) -> None:
    keep_network(run, ARCH, network(1), FINETUNED)
    again = keep_network(run, ARCH, network(2), FINETUNED)
    assert same(load_network(kept, SPACE), network())
    assert same(load_network(again, SPACE), network(2))
    assert kept_networks(run, "finetuned") == [again]
    assert kept_original(run) == kept
    assert sorted(os.listdir(again.path)) == ["network.json", "weights.safetensors"]
    assert {name for name in os.listdir(again.path.parent) if name.startswith(".")} == set()


def test_a_run_without_one_has_none(run: Run) -> None:
    assert kept_network(run, "finetuned", ARCH.digest) is None
    assert kept_networks(run, "original") == []
    assert kept_original(run) is None


def test_a_second_original_is_refused(run: Run, kept: KeptNetwork) -> None:
    keep_network(run, SPACE.smallest(), network(), ORIGINAL)
    with pytest.raises(UserError, match="holds 2 originals; delete all but the run's own"):
        kept_original(run)


def test_broken_weights_are_not_kept(run: Run, kept: KeptNetwork) -> None:
    broken = network(1)
    next(broken.parameters()).data.fill_(float("nan"))
    with pytest.raises(UserError, match=r"is not kept, its weights are broken: .* holds NaN"):
        keep_network(run, ARCH, broken, ORIGINAL)
    assert same(load_network(kept, SPACE), network())


def test_a_score_is_read_as_it_was_kept() -> None:
    score = Score(ACCURACY, 0.75, 0.05, 20, 1.5)
    assert HeldOutScore.of(score).score(ACCURACY) == score
    assert HeldOutScore.of(Score(ACCURACY, 0.5, 0.1, 25, float("nan"))) == SCORE
    assert not SCORE.score(ACCURACY).is_sound


def _truncated(kept: KeptNetwork) -> None:
    kept.weights.write_bytes(kept.weights.read_bytes()[:-10])


def _flipped(kept: KeptNetwork) -> None:
    content = bytearray(kept.weights.read_bytes())
    content[-10] ^= 1
    kept.weights.write_bytes(content)


def _gone(kept: KeptNetwork) -> None:
    kept.weights.unlink()


def _written_as_told(kept: KeptNetwork, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the weights and the record's sum of them, as only somebody who means it does."""
    state = load_file(kept.weights)
    change(state)
    save_file(state, kept.weights)
    _record(kept, sha256=sha256(kept.weights.read_bytes()).hexdigest())


def _record(kept: KeptNetwork, **values: object) -> None:
    file = kept.path / "network.json"
    write_json(file, {**json.loads(file.read_text()), **values})


def _missing(kept: KeptNetwork) -> None:
    _written_as_told(kept, lambda state: state.popitem())


def _surplus(kept: KeptNetwork) -> None:
    _written_as_told(kept, lambda state: state.update(more=torch.ones(1)))


def _reshaped(kept: KeptNetwork) -> None:
    _written_as_told(kept, lambda state: state.update({"blocks.stem.weights.conv.weight": torch.ones(1)}))


def _not_finite(kept: KeptNetwork) -> None:
    _written_as_told(kept, lambda state: state["blocks.stem.weights.conv.weight"].fill_(float("inf")))


def _other_numbers(kept: KeptNetwork) -> None:
    _written_as_told(kept, lambda state: state.update({name: value.double() for name, value in state.items()}))


def _no_safetensors(kept: KeptNetwork) -> None:
    kept.weights.write_bytes(b"\xff" * 64)
    _record(kept, sha256=sha256(b"\xff" * 64).hexdigest())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_truncated, "damaged, or not the weights that network.json tells of"),
        (_flipped, "damaged, or not the weights that network.json tells of"),
        (_gone, "cannot be read"),
        (_no_safetensors, "damaged, or no safetensors"),
        (_missing, "is missing"),
        (_surplus, "more is none of its tensors"),
        (_reshaped, r"blocks.stem.weights.conv.weight is torch.float32 \[1\], not"),
        (_other_numbers, "is torch.float64"),
        (_not_finite, "no weights to compute with: .* holds infinity"),
    ],
)
def test_damaged_weights_are_refused_in_one_line(
    damage: Callable[[KeptNetwork], None], said: str, run: Run, kept: KeptNetwork
) -> None:
    damage(kept)
    found = kept_network(run, "original", ARCH.digest)
    assert found is not None
    with pytest.raises(UserError, match=said) as caught:
        load_network(found, SPACE)
    assert str(caught.value).startswith(f"{kept.weights}: ")
    assert str(caught.value).endswith("; restore it, or delete that directory to do without")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kind": "other"}, "kind is"),
        ({"kind": "finetuned"}, "tells of finetuned-"),
        ({"digest": "0" * 12}, "tells of original-000000000000"),
        ({"sha256": "?"}, "sha256 is"),
        ({"epochs": -1}, "epochs is -1"),
        ({"more": 1}, "unknown key 'more'"),
        ({"schema_version": 2}, "schema_version is 2"),
    ],
)
def test_a_damaged_record_is_refused_in_one_line(
    changed: dict[str, object], said: str, run: Run, kept: KeptNetwork
) -> None:
    _record(kept, **changed)
    with pytest.raises(UserError, match=said) as caught:
        kept_original(run)
    assert str(caught.value).startswith(f"{kept.path / 'network.json'}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\x80\x04N."])
def test_what_is_no_record_is_refused(content: bytes, run: Run, kept: KeptNetwork) -> None:
    (kept.path / "network.json").write_bytes(content)
    with pytest.raises(UserError, match=r"network.json: damaged"):
        kept_network(run, "original", ARCH.digest)


def test_an_architecture_of_another_space_is_refused(run: Run, kept: KeptNetwork) -> None:
    _record(kept, arch={"depth": 3})
    with pytest.raises(UserError, match=r"network.json: damaged \(architecture: .*\); restore it"):
        load_network(kept_networks(run, "original")[0], SPACE)
    _record(kept, arch=SPACE.smallest().to_json())
    with pytest.raises(UserError, match=r"network.json: damaged, architecture .* has another digest; restore it"):
        load_network(kept_networks(run, "original")[0], SPACE)


def test_nothing_is_written_into_a_run_that_was_replaced(run: Run) -> None:
    with run.lock():
        (run.path / ".lock").rename(run.path / ".other")
        with pytest.raises(UserError, match="was deleted or replaced"):
            keep_network(run, ARCH, network(), ORIGINAL)
    assert not network_directory(run, "original", ARCH.digest).exists()
