"""Published supernets: their files read without running anything, and their networks as they were meant."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from nasdeploy.core.errors import UserError
from nasdeploy.importers.layouts import PUBLISHED
from nasdeploy.importers.published import PublishedSupernet, published_weights, read_published
from nasdeploy.spaces import load_space
from nasdeploy.supernet.settings import FROM_PUBLISHED, StartSettings
from nasdeploy.supernet.supernet import Supernet, extract
from tests.importers import published_alphanet as alphanet
from tests.importers import published_ofa as ofa
from tests.importers.hostile_import import CONV, NORM, SMALL, small_state

OWN_HEAD = "head.classifier"
OFA_SPACES = [(1.0, "ofa-mbv3", 7_678_880), (1.2, "ofa-mbv3-w1.2", 10_715_752)]
"""The multiplier of the widths, the space, and the parameters of its supernet with the matrices of kernels."""


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return alphanet.state_dict()


@pytest.fixture(scope="module")
def file(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return alphanet.write_file(tmp_path_factory.mktemp("published") / "alphanet.pth.tar", tensors)


def test_every_kind_can_be_started_from() -> None:
    assert tuple(PUBLISHED) == FROM_PUBLISHED


@pytest.fixture(scope="module")
def found(file: Path) -> PublishedSupernet:
    return read_published("attentivenas", file)


def test_a_file_is_counted(found: PublishedSupernet) -> None:
    assert (found.space, found.recipe, found.classes) == ("alphanet", "attentivenas-imagenet", 1000)
    assert (found.tensors, found.parameters) == (469, 23_934_704)
    assert found.notes == ()


def test_every_tensor_has_its_place(found: PublishedSupernet, tensors: dict[str, Tensor]) -> None:
    weights = found.weights
    own = {key for key in Supernet(load_space("alphanet")).state_dict() if not key.endswith("num_batches_tracked")}
    assert weights.keys() == own
    unused = [
        name for name in tensors if "shortcut" in name and int(name.split(".")[1]) not in (0, 2, 7, 13, 19, 27, 35)
    ]
    learned = [name for name in tensors if "tracking" not in name and "tracked" not in name and name not in unused]
    assert len(unused) == 30
    assert len(weights) == len(learned)


def test_networks_compute_what_is_described(found: PublishedSupernet, tensors: dict[str, Tensor]) -> None:
    space = load_space("alphanet")
    supernet = Supernet(space)
    supernet.load_state_dict(found.weights, strict=False)
    for network in space.named:
        images = torch.randn(1, 3, *[alphanet.NETWORKS[network][0]] * 2)
        with torch.no_grad():
            logits = extract(supernet, space.named[network]).eval()(images)
            expected = alphanet.forward(tensors, network, images)
        assert float(expected.std()) > 0.1
        assert float((logits - expected).abs().max()) <= 1e-4


# -- once-for-all


@pytest.mark.parametrize(("multiplier", "space", "parameters"), OFA_SPACES)
def test_files_of_once_for_all_are_told_apart_by_shapes(
    multiplier: float, space: str, parameters: int, tmp_path: Path
) -> None:
    tensors = ofa.state_dict(multiplier)
    assert len(tensors) == 475
    for number, renamed in enumerate((tensors, ofa.old_names(tensors))):
        found = read_published("ofa", ofa.write_file(tmp_path / f"{number}.pth", renamed, legacy=bool(number)))
        assert (found.space, found.recipe, found.classes) == (space, "ofa-mbv3-imagenet", 1000)
        assert (found.parameters, found.notes) == (parameters, ())
        supernet = Supernet(load_space(space))
        supernet.load_state_dict(found.weights, strict=False)
        for seed in range(3):
            network = ofa.SubNetwork.drawn(3 * number + seed)
            images = torch.randn(1, 3, network.resolution, network.resolution)
            with torch.no_grad():
                logits = extract(supernet, supernet.space.arch(network.choices)).eval()(images)
                expected = ofa.forward(tensors, network, images)
            assert float(expected.std()) > 0.1
            assert float((logits - expected).abs().max()) <= 1e-4


def test_a_network_of_full_size_alone_is_a_supernet_without_transforms(tmp_path: Path) -> None:
    tensors = ofa.static_names(ofa.state_dict(1.0))
    assert len(tensors) == 435
    found = read_published("ofa", ofa.write_file(tmp_path / "a.pth", tensors))
    assert found.notes == ("no kernel transforms are in it: smaller kernels are the centres of the largest",)
    assert found.weights["weights.stage2_block1.transforms.5to3"].equal(torch.eye(9))
    with pytest.raises(UserError, match="no weights of alphanet: it holds those of space ofa-mbv3; read it as ofa"):
        read_published("alphanet", tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"weights of space ofa-mbv3, and that of the recipe is ofa-mbv3-w1\.2, which"):
        published_weights(StartSettings(model=f"ofa:{tmp_path / 'a.pth'}"), load_space("ofa-mbv3-w1.2"))


# -- what is refused


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return what writes a file of the layout, of a small supernet, with some tensors changed (None: left out)."""
    monkeypatch.setitem(PUBLISHED, "alphanet", SMALL)
    monkeypatch.delitem(PUBLISHED, "attentivenas")

    def written(name: str = "small.pth", **changes: Tensor | None) -> Path:
        state = {**small_state(), **changes}
        torch.save({"state_dict": {key: each for key, each in state.items() if each is not None}}, tmp_path / name)
        return tmp_path / name

    return written


def refusal(path: Path, kind: str = "alphanet") -> str:
    with pytest.raises(UserError) as caught:
        read_published(kind, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def test_differences_are_counted_and_five_are_named(small: Callable[..., Path]) -> None:
    surplus = {f"blocks.99.{number}": torch.zeros(1) for number in range(7)}
    changes = {f"{CONV}.weight": None, f"{NORM}.bias": torch.zeros(3), f"{NORM}.weight": torch.ones(2)}
    said = refusal(small(**surplus, **changes))
    assert said.startswith(f"no weights of alphanet: as space digits it has 1 missing ({CONV}.weight), 7 surplus (")
    assert "(blocks.99.0, blocks.99.1, blocks.99.2, blocks.99.3, blocks.99.4, ...)" in said
    assert f"2 of another shape ({NORM}.weight is [2], not [" in said


def test_the_file_of_another_kind_is_named(small: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = small()
    monkeypatch.setitem(PUBLISHED, "another", replace(SMALL, recipes={"cifar10": "alphanet-imagenet"}))
    assert refusal(path, "another") == ("no weights of another: it holds those of space digits; read it as alphanet")


def test_statistics_may_be_missing_but_not_half_of_them(small: Callable[..., Path]) -> None:
    state = small_state()
    statistics = {name: None for name in state if name.endswith(("running_mean", "running_var"))}
    found = read_published("alphanet", small(**statistics))
    assert [note.partition(":")[0] for note in found.notes] == ["no running statistics are in it"]
    for key, tensor in found.weights.items():
        if key.endswith(("running_mean", "running_var")):
            assert tensor.equal(torch.full_like(tensor, float(key.endswith("var"))))
    others = list(statistics)[1:]
    assert f"{len(others)} missing" in refusal(small(**dict.fromkeys(others)))


def test_weights_that_nothing_computes_with(small: Callable[..., Path]) -> None:
    assert "holds NaN" in refusal(small(**{f"{CONV}.weight": small_state()[f"{CONV}.weight"] * torch.nan}))


def test_an_unknown_kind(small: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="unknown kind of published supernets 'alphnet'; did you mean 'alphanet'"):
        read_published("alphnet", small())


# -- where a training begins


@pytest.mark.parametrize(
    ("classes", "classifier", "kept"), [(1000, "keep", True), (1000, "new", False), (3, "keep", False)]
)
def test_a_training_begins_with_its_weights(
    classes: int, classifier: Literal["keep", "new"], kept: bool, small: Callable[..., Path]
) -> None:
    start = StartSettings(model=f"alphanet:{small()}", classifier=classifier)
    weights, all_of_it = published_weights(start, load_space("digits", classes)), read_published("alphanet", small())
    assert set(all_of_it.weights) - set(weights) == (
        set() if kept else {f"weights.{OWN_HEAD}.{p}" for p in ("weight", "bias")}
    )
    assert all(tensor.equal(all_of_it.weights[key]) for key, tensor in weights.items())


def test_a_training_in_another_space_is_refused(small: Callable[..., Path]) -> None:
    start = StartSettings(model=f"alphanet:{small()}")
    with pytest.raises(
        UserError, match=r"weights of space digits, and that of the recipe is cifar10, which differs in "
    ):
        published_weights(start, load_space("cifar10"))
