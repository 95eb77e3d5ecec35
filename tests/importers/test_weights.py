"""Weights that a user gives: found in what training scripts write, and fitted into a network."""

import argparse
import io
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nasdeploy.core.errors import UserError
from nasdeploy.importers.weights import classes_of, load_into, read_state_dict
from tests.importers.hostile import network

STATE = network().state_dict()


def saved(path: Path, content: object, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def assert_same(found, expected=STATE):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("legacy", [False, True])
def test_a_state_dict_of_torchs(tmp_path, legacy):
    given = read_state_dict(saved(tmp_path / "a.pth.tar", STATE, legacy))
    assert_same(given.tensors)
    assert (given.taken, given.told) == ("", None)


def test_a_state_dict_in_safetensors_whatever_the_file_is_called(tmp_path):
    for name in ("a.safetensors", "b.bin"):
        save_file(STATE, tmp_path / name)
        found = read_state_dict(tmp_path / name).tensors
        assert_same({key: found[key] for key in STATE})


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_of_any_kind_and_layout(tmp_path, legacy):
    base = torch.randn(6, 8)
    tensors = {
        "part": base[1:4, 2:7],
        "transposed": base.t(),
        "whole": base,
        "half": base.half(),
        "double": base.double(),
        "brain": base.bfloat16(),
        "integers": torch.arange(5),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "truths": torch.tensor([True, False]),
        "one": torch.tensor(3.5),
        "none": torch.zeros(0, 4),
        "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "parameter": nn.Parameter(torch.randn(3)),
    }
    assert_same(read_state_dict(saved(tmp_path / "a.pt", tensors, legacy)).tensors, tensors)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle_that_torch_writes(tmp_path, protocol):
    torch.save(OrderedDict(STATE), tmp_path / "a.pt", pickle_protocol=protocol)
    assert_same(read_state_dict(tmp_path / "a.pt").tensors)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.model."])
def test_prefixes_of_wrappers_are_taken_off(tmp_path, prefix):
    wrapped = {f"{prefix}{name}": tensor for name, tensor in STATE.items()}
    assert_same(read_state_dict(saved(tmp_path / "a.pt", wrapped)).tensors)


def test_a_prefix_of_some_names_is_a_part_of_the_network(tmp_path):
    content = {"model.a": torch.zeros(1), "b": torch.zeros(1)}
    assert list(read_state_dict(saved(tmp_path / "a.pt", content)).tensors) == ["model.a", "b"]


def test_weights_that_torch_averaged(tmp_path):
    content = AveragedModel(network()).state_dict()
    assert_same(read_state_dict(saved(tmp_path / "a.pt", content)).tensors)


def test_a_training_script_keeps_more_than_weights(tmp_path):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 3,
        "arch": "net",
        "args": argparse.Namespace(lr=0.1, data=Path("images"), sizes=[1, 2]),
        "best": np.float64(0.5),
        "best_loss": torch.tensor(0.2),
        "history": defaultdict(list, {"loss": [1.0]}),
        "state_dict": STATE,
        "optimizer": optimizer.state_dict(),
        "amp": {"scale": 65536.0},
    }
    given = read_state_dict(saved(tmp_path / "a.pt", content))
    assert_same(given.tensors)
    assert (given.taken, given.told) == ("state_dict", None)


@pytest.mark.parametrize("key", ["model", "weights", "net", "model_state_dict", "ema"])
def test_usual_keys(tmp_path, key):
    given = read_state_dict(saved(tmp_path / "a.pt", {key: {"state_dict": STATE}, "epoch": 1}))
    assert_same(given.tensors)
    assert given.taken == f"{key}.state_dict"


def test_averaged_weights_are_preferred_and_that_is_told(tmp_path):
    other = {name: tensor + 1 for name, tensor in STATE.items()}
    path = saved(tmp_path / "a.pt", {"model": other, "state_dict": other, "state_dict_ema": STATE})
    given = read_state_dict(path)
    assert_same(given.tensors)
    assert given.told == f"{path}: took the weights under 'state_dict_ema', not 'state_dict', 'model'"


def test_what_is_not_asked_for_is_not_read(tmp_path):
    path = saved(tmp_path / "a.pt", {"optimizer": {"moment": torch.randn(1000)}, "model": STATE})
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (large,) = [entry for entry in archive.infolist() if entry.file_size == 4000]
    damaged = bytearray(content)
    damaged[large.header_offset + 300] ^= 255
    path.write_bytes(damaged)
    assert_same(read_state_dict(path).tensors)


# -- into a network


def given(tmp_path, **changes: Tensor | None):
    content = {name: tensor for name, tensor in {**STATE, **changes}.items() if tensor is not None}
    return read_state_dict(saved(tmp_path / "a.pt", content))


def another() -> nn.Module:
    made = network()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    return made


def test_all_of_it_is_loaded(tmp_path):
    model = another()
    load_into(model, given(tmp_path), "timm:net")
    assert_same(model.state_dict())


def test_the_network_has_the_classes_of_the_weights(tmp_path):
    weights = given(tmp_path, **{"3.weight": torch.randn(1000, 4), "3.bias": torch.randn(1000)})
    assert classes_of(network(), weights) == 1000
    assert classes_of(network(), given(tmp_path, **{"3.weight": torch.randn(1000, 7)})) == 5
    with pytest.raises(UserError, match=r"2 of another shape \(3.weight is \[1000, 4\], not \[5, 4\], 3.bias is"):
        load_into(network(), weights, "timm:net")


def test_a_network_without_a_classifier_is_refused(tmp_path):
    for fit in (classes_of, lambda model, weights: load_into(model, weights, "timm:net")):
        with pytest.raises(UserError, match="model of class Conv2d: it has no linear layer that would be its classifi"):
            fit(nn.Conv2d(3, 4, 1), given(tmp_path))


def test_old_files_lack_counters(tmp_path):
    model = another()
    load_into(model, given(tmp_path, **{"1.num_batches_tracked": None}), "timm:net")
    assert_same(model.state_dict())


def test_half_precision_is_widened(tmp_path):
    model = another()
    load_into(model, given(tmp_path, **{"0.weight": STATE["0.weight"].half()}), "timm:net")
    assert torch.equal(model[0].weight, STATE["0.weight"].half().float())


def test_differences_are_counted_and_five_are_named(tmp_path):
    surplus = {f"extra{number}": torch.zeros(1) for number in range(7)}
    with pytest.raises(UserError) as refused:
        load_into(
            network(), given(tmp_path, **{"0.weight": None, "1.bias": torch.zeros(3)}, **surplus), "timm:resnet18"
        )
    assert str(refused.value) == (
        f"{tmp_path / 'a.pt'}: no weights of timm:resnet18: 1 missing (0.weight), 7 surplus (extra0, extra1, extra2, "
        "extra3, extra4, ...), 1 of another shape (1.bias is [3], not [4]); name the file of that network"
    )


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"no\.pt: no such file"):
        read_state_dict(tmp_path / "no.pt")
    with pytest.raises(UserError, match="no such file"):
        read_state_dict(tmp_path)
