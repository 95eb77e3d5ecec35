"""Weights in files: what is written is read, and nothing else is."""

import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.spaces import load_space
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.supernet.weights import initialise, load_supernet, read, require_initialises, save
from tests.nn.reference import randomise
from tests.small_spaces import two_stages

CLASSIFIER = ("weights.head.classifier.weight", "weights.head.classifier.bias")


def supernet(classes: int = 3, seed: int = 0) -> Supernet:
    torch.manual_seed(seed)
    made = Supernet(two_stages(classes))
    randomise(made, seed)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save(tmp_path / "w.pt", supernet(), epoch=3, optimizer={"state": {0: torch.ones(2)}})
    return tmp_path / "w.pt"


def same(a: Supernet, b: Supernet) -> bool:
    ours, others = a.state_dict(), b.state_dict()
    return ours.keys() == others.keys() and all(torch.equal(ours[name], others[name]) for name in ours)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_supernet(path, two_stages())
    assert typed(caught.value).startswith(f"{path}: ")
    assert "\n" not in typed(caught.value)
    return typed(caught.value)


def test_round_trip(file: Path) -> None:
    assert same(load_supernet(file, two_stages()), supernet())
    content = read(file)
    assert (content["epoch"], content["space"]) == (3, two_stages().digest)
    assert content["optimizer"]["state"][0].tolist() == [1, 1]
    assert os.listdir(file.parent) == ["w.pt"]


def test_weights_of_another_space_are_refused(file: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_supernet(file, load_space("digits", 3))
    digests = f"{two_stages().digest}, not {load_space('digits', 3).digest}"
    assert typed(caught.value).startswith(f"{file}: weights of another search space ({digests} as digits is now); ")


def test_other_classes_are_another_space(file: Path) -> None:
    with pytest.raises(UserError, match="weights of another search space"):
        load_supernet(file, two_stages(4))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.pt")
    assert "no such file" in refusal(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -1])
def test_a_truncated_file_is_refused(kept: float, file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if kept == 0.5 else int(kept)])
    assert "damaged" in refusal(file)


def test_a_flipped_bit_is_never_loaded(file: Path) -> None:
    content, weights, rng = file.read_bytes(), read(file)["weights"], np.random.default_rng(0)
    refused = []
    for place, bit in zip(rng.integers(len(content), size=300), rng.integers(8, size=300), strict=True):
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        file.write_bytes(flipped)
        try:
            found = read(file)["weights"]
        except UserError as error:
            refused.append(str(error))
            continue
        # Between the members of the archive there are bytes that nobody reads.
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert len(refused) > 200
    assert all(said.startswith(f"{file}: ") for said in refused)


class Malicious:
    """Makes a file when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def in_archive(file: Path) -> None:
    """Put the pickle where torch keeps its own, with right checksums."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, pickle.dumps(Malicious(), 2) if name.endswith("data.pkl") else data)


def torch_saved(file: Path) -> None:
    torch.save({"schema": 1, "space": two_stages().digest, "weights": {"a": Malicious()}}, file)


def bare(file: Path) -> None:
    file.write_bytes(pickle.dumps(Malicious()))


@pytest.mark.parametrize("write", [in_archive, torch_saved, bare])
def test_code_in_a_file_does_not_run(file: Path, write: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert callable(write)
    write(file)
    refusal(file)
    assert not Path("executed").exists()
    pickle.loads(pickle.dumps(Malicious()))
    assert Path("executed").exists(), "the trap does not work"


class Greedy:
    """Takes half a gigabyte when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return bytearray, (1 << 29,)


def test_a_small_file_takes_little_memory(file: Path) -> None:
    torch.save({"schema": 1, "space": two_stages().digest, "weights": {}, "epoch": Greedy()}, file)
    tracemalloc.start()
    assert "no weights of this version" in refusal(file)
    assert "no weights of a supernet" in initialisation(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 24


@pytest.mark.parametrize(
    "content",
    [
        b"word",
        torch.ones(3),
        {},
        {"schema": 2, "space": "0123456789ab", "weights": {}},
        {"schema": 1, "weights": {}},
        {"schema": 1, "space": "0123456789ab"},
        {"schema": 1, "space": "0123456789ab", "weights": [1, 2]},
        {"schema": 1, "space": "0123456789ab", "weights": {"a": 1}},
    ],
    ids=str,
)
def test_other_files_of_torch_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    assert "no weights of this version of nasdeploy" in refusal(tmp_path / "w.pt")


@pytest.mark.parametrize("change", ["missing", "added", "shape"])
def test_tensors_that_do_not_fit_the_space_are_refused(change: str, file: Path) -> None:
    content = read(file)
    name = CLASSIFIER[1]
    if change == "missing":
        del content["weights"][name]
    else:
        content["weights"][name if change == "shape" else "other"] = torch.ones(7)
    torch.save(content, file)
    assert "its tensors do not fit" in refusal(file)


def as_checkpoint(path: Path) -> None:
    save(path, supernet(), epoch=3)


def as_state_dict(path: Path) -> None:
    torch.save(supernet().state_dict(), path)


def as_safetensors(path: Path) -> None:
    save_file(supernet().state_dict(), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [("w.pt", as_checkpoint), ("w.pth", as_state_dict), ("w.safetensors", as_safetensors)],
)
def test_initialise_takes_everything_but_the_classifier(
    name: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path / name)
    target, own = supernet(classes=5, seed=1), supernet(classes=5, seed=1)
    require_initialises(target.space, tmp_path / name)
    initialise(target, tmp_path / name)
    source = supernet()
    for name, tensor in target.state_dict().items():
        expected = own if name in CLASSIFIER else source
        assert torch.equal(tensor, expected.state_dict()[name]), name
    assert target.state_dict()[CLASSIFIER[0]].shape[0] == 5


def test_initialise_keeps_the_classifier_for_equal_classes_too(file: Path) -> None:
    target = supernet(seed=1)
    initialise(target, file)
    assert torch.equal(target.state_dict()[CLASSIFIER[0]], supernet(seed=1).state_dict()[CLASSIFIER[0]])
    assert not torch.equal(target.state_dict()[CLASSIFIER[0]], supernet().state_dict()[CLASSIFIER[0]])


def test_initialise_refuses_another_space(file: Path) -> None:
    target = Supernet(load_space("digits", 3))
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(UserError) as caught:
        initialise(target, file)
    assert typed(caught.value).startswith(f"--init {file}: weights of another search space (weights.")
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def initialisation(path: Path) -> str:
    """What is said of a file that the tiny supernet cannot start from, by the check and by the deed."""
    said = set()
    for start in (lambda: require_initialises(two_stages(), path), lambda: initialise(supernet(), path)):
        with pytest.raises(UserError) as caught:
            start()
        said.add(typed(caught.value))
    (only,) = said
    assert "\n" not in only
    return only


def test_initialise_names_the_first_differences(tmp_path: Path) -> None:
    state = supernet().state_dict()
    names = [name for name in sorted(state) if name not in CLASSIFIER]
    shape, rank = list(state[names[1]].shape), state[names[1]].ndim
    missing, state[names[1]] = state.pop(names[0]), torch.ones([7] * rank)
    save_file({**state, "a.other": missing}, tmp_path / "w.safetensors")
    assert initialisation(tmp_path / "w.safetensors") == (
        f"--init {tmp_path}/w.safetensors: weights of another search space (a.other is not of this space, "
        f"{names[0]} is missing, {names[1]} is {[7] * rank}, not {shape}); it must be the same but for the number of "
        "classes"
    )
    save_file({"a": missing, "b": missing.clone()}, tmp_path / "w.safetensors")
    said = initialisation(tmp_path / "w.safetensors")
    assert f"(a is not of this space, b is not of this space, {names[0]} is missing, and {len(names) - 1} more)" in said


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_initialise_refuses_missing_and_damaged_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert initialisation(path) == f"--init {path}: no such file; give --init another run or file"
    (as_checkpoint if path.suffix == ".pt" else as_safetensors)(path)
    content = path.read_bytes()
    for kept in (0, 1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        kind = "no weights of nasdeploy" if path.suffix == ".pt" else "no safetensors"
        assert initialisation(path) == f"--init {path}: damaged, or {kind}; give --init another run or file"


@pytest.mark.parametrize("content", [b"word", {}, {"a": 1}, {"schema": 2, "weights": {}}, {3: torch.ones(1)}], ids=str)
def test_initialise_refuses_other_files_of_torch(content: object, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(content, path)
    assert initialisation(path) == (
        f"--init {path}: no weights of a supernet of this version; give --init another run or file"
    )


def test_initialise_runs_no_code_and_reads_no_other_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weights.a": Malicious()}, "w.pt")
    assert "no weights of a supernet" in initialisation(Path("w.pt"))
    assert not Path("executed").exists()
    Path("w.onnx").write_bytes(b"onnx")
    assert initialisation(Path("w.onnx")) == (
        "--init w.onnx: not a file of weights (.pt, .pth, .safetensors); give --init another run or file"
    )


@pytest.mark.parametrize("write", [as_checkpoint, as_state_dict, as_safetensors])
def test_weights_of_no_number_are_neither_loaded_nor_started_from(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = supernet()
    name = next(name for name in broken.state_dict() if name.endswith("running_var"))
    broken.state_dict()[name][0] = float("nan")
    monkeypatch.setattr(f"{__name__}.supernet", lambda *given: broken)
    path = tmp_path / ("w.safetensors" if write is as_safetensors else "w.pt")
    write(path)
    monkeypatch.undo()
    found = f"{name} holds NaN in 1 of {len(broken.state_dict()[name])} numbers"
    assert initialisation(path) == f"--init {path}: no weights to start from: {found}; give --init another run or file"
    if write is as_checkpoint:
        assert refusal(path) == f"{path}: no weights to compute with: {found}; restore it, or train anew with --restart"


def test_zeros_are_nothing_to_start_from(tmp_path: Path) -> None:
    state = {name: torch.zeros_like(value) for name, value in supernet().state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    assert "is zero everywhere, and it is a variance" in initialisation(tmp_path / "w.pt")


def test_a_classifier_that_is_not_taken_may_hold_anything(tmp_path: Path) -> None:
    state = dict(supernet().state_dict())
    state[CLASSIFIER[0]] = torch.zeros_like(state[CLASSIFIER[0]])
    torch.save(state, tmp_path / "w.pt")
    require_initialises(two_stages(), tmp_path / "w.pt")
    begun = supernet()
    own = begun.state_dict()[CLASSIFIER[0]].clone()
    initialise(begun, tmp_path / "w.pt")
    assert torch.equal(begun.state_dict()[CLASSIFIER[0]], own)
