"""Weights that a library would fetch, where it cannot, and names of weights that there are not."""

from urllib.error import HTTPError, URLError

import pytest
import torch
from torch import nn

from nasdeploy.core.errors import UserError
from nasdeploy.importers import IMPORTERS, importer


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and nothing that was fetched before."""

    def unreachable(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr(importer, "urlopen", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))


@pytest.mark.parametrize(
    ("library", "name", "url"),
    [
        ("timm", "mnasnet_small.lamb_in1k", "https://huggingface.co/timm/mnasnet_small.lamb_in1k/resolve/main/model.safetensors"),
        ("torchvision", "mnasnet0_5", "https://download.pytorch.org/models/mnasnet0.5_top1_67.823-3ffadce67e.pth"),
    ],
)  # fmt: skip
def test_the_file_that_cannot_be_fetched_is_named(offline, library, name, url):
    with pytest.raises(UserError) as caught:
        IMPORTERS[library].model(name, pretrained=True)
    assert str(caught.value) == (
        f"{library}:{name}: its weights cannot be fetched from here (Name or service not known); fetch {url} elsewhere "
        "and give the file as `weights=FILE`"
    )


def test_a_server_that_refuses_one_question_is_asked_by_the_library(monkeypatch):
    def refused(request, timeout):
        raise HTTPError(request.full_url, 403, "Forbidden", None, None)

    monkeypatch.setattr(importer, "urlopen", refused)
    with importer.fetching("timm:mine", "https://example.org/weights"):
        asked = True
    assert asked
    with (
        pytest.raises(UserError, match=r"timm:mine: .* \(wrong hash\); fetch https://example.org/weights elsewhere"),
        importer.fetching("timm:mine", "https://example.org/weights"),
    ):
        raise RuntimeError("wrong hash")


def test_what_was_fetched_before_is_taken_without_a_question(offline, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    made = IMPORTERS["torchvision"].model("mnasnet0_5")
    nn.init.constant_(made.classifier[1].bias, 3.0)
    torch.save(made.state_dict(), checkpoints / "mnasnet0.5_top1_67.823-3ffadce67e.pth")
    found = IMPORTERS["torchvision"].model("mnasnet0_5", pretrained=True)
    assert torch.equal(found.classifier[1].bias, torch.full((1000,), 3.0))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mobilenetv2_035", "its library has no trained weights of it; give a file as `weights=FILE`"),
        ("lcnet_050.ra2_in1", "timm has no such weights; did you mean 'lcnet_050.ra2_in1k'?"),
        ("efficientnet_light0", "timm has no such model; did you mean 'efficientnet_lite0'?"),
    ],
)
def test_what_timm_has_no_weights_of_is_said(name, said):
    with pytest.raises(UserError) as caught:
        IMPORTERS["timm"].model(name, pretrained=True)
    assert str(caught.value) == f"timm:{name}: {said}"
