"""The network that a recipe starts from: its weights begin the supernet, whose largest network then is the original."""

import pytest
import torch

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import parse
from nasdeploy.importers import IMPORTERS
from nasdeploy.importers.start import initial_weights, open_model
from nasdeploy.latency.profile import randomise_norms
from nasdeploy.spaces import load_space
from nasdeploy.spaces.grown import GrownSettings, cuts_of
from nasdeploy.supernet.settings import StartSettings
from nasdeploy.supernet.supernet import Supernet, extract

NAME = "lcnet_035"


def trained(classes):
    """timm's model with weights that no two seeds share."""
    torch.manual_seed(classes)
    model = IMPORTERS["timm"].model(NAME, classes=classes)
    randomise_norms(model)
    return model.eval()


def space_for(imported, classes):
    content = {"kind": "grown", "name": NAME, **cuts_of(imported.stem, imported.stages, imported.head, (32, 64))}
    return parse(GrownSettings, content, "space").build(classes)


@pytest.fixture
def start(tmp_path):
    """The weights of a network of 7 classes, as a training script writes them."""
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in trained(7).state_dict().items()}}, tmp_path / "x.pth"
    )
    return StartSettings(model=f"timm:{NAME}", weights=str(tmp_path / "x.pth"))


def test_the_largest_network_begins_as_the_users_own(start):
    imported = open_model(start)
    space = space_for(imported, 7)
    supernet = Supernet(space)
    supernet.load_state_dict(initial_weights(imported, space, start))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found, expected = extract(supernet, space.largest()).eval()(images), trained(7)(images)
    assert torch.allclose(found, expected, rtol=0.0, atol=1e-5 * float(expected.abs().max()))


def test_which_of_several_weights_were_taken_is_noted(start, tmp_path):
    assert open_model(start).notes == []
    content = torch.load(start.weights, weights_only=True)
    torch.save({**content, "state_dict_ema": content["state_dict"]}, start.weights)
    said = f"{start.weights}: took the weights under 'state_dict_ema', not 'state_dict'"
    assert open_model(start).notes == [said]


@pytest.mark.parametrize(("classes", "classifier"), [(5, "keep"), (7, "new")])
def test_another_classifier_begins_anew(start, classes, classifier):
    start = start.model_copy(update={"classifier": classifier})
    imported = open_model(start)
    weights = initial_weights(imported, space_for(imported, classes), start)
    assert {name for name in imported.weights if name not in weights} == {
        "weights.head.classifier.weight",
        "weights.head.classifier.bias",
    }


def test_weights_by_other_names_are_taken_in_their_order(start, tmp_path):
    tensors = {
        f"{place}.{name.rpartition('.')[2]}": t for place, (name, t) in enumerate(trained(7).state_dict().items())
    }
    torch.save(tensors, tmp_path / "renamed.pth")
    renamed = open_model(start.model_copy(update={"weights": str(tmp_path / "renamed.pth")}))
    assert all(torch.equal(tensor, renamed.weights[name]) for name, tensor in open_model(start).weights.items())


def test_weights_in_another_order_are_refused(start, tmp_path):
    given = list(trained(7).state_dict().items())
    torch.save(
        {f"{place}.{name.rpartition('.')[2]}": t for place, (name, t) in enumerate(given[::-1])},
        tmp_path / "y.pth",
    )
    with pytest.raises(UserError, match=r"no weights of timm:lcnet_035: \d+ missing .*, \d+ surplus") as caught:
        open_model(start.model_copy(update={"weights": str(tmp_path / "y.pth")}))
    assert "\n" not in str(caught.value)


def test_a_space_of_another_network_is_refused(start):
    imported = open_model(start)
    with pytest.raises(UserError, match=r"space digits was not grown from it; write the recipe anew with `nd\.init"):
        initial_weights(imported, load_space("digits", 7), start)
    space = space_for(imported, 7)
    rows = space.settings.stages[1].blocks
    wider = rows[0].model_copy(update={"mid_channels": rows[0].mid_channels + 8})
    stages = list(space.settings.stages)
    stages[1] = stages[1].model_copy(update={"blocks": (wider, *rows[1:])})
    with pytest.raises(UserError, match=r"stages\.1 of space lcnet_035 is not that model's"):
        initial_weights(imported, space.settings.model_copy(update={"stages": tuple(stages)}).build(7), start)


@pytest.mark.parametrize("model", ["timm", "timm:", "hub:resnet18", "resnet18", "run:"])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(UserError, match="write timm:NAME, torchvision:NAME or run:DIR"):
        parse(StartSettings, {"model": model}, "recipe.yaml")


def test_what_no_block_expresses_is_refused_before_its_weights_are_fetched(monkeypatch):
    fetched = []
    model = IMPORTERS["timm"].model
    monkeypatch.setattr(
        type(IMPORTERS["timm"]), "model", lambda self, *given, **how: (fetched.append(how), model(*given))[1]
    )
    with pytest.raises(UserError, match="timm:mixnet_s: "):
        open_model(StartSettings(model="timm:mixnet_s"))
    assert fetched == [{}]


def test_what_no_block_expresses_is_refused_before_its_weights_are_read(tmp_path):
    """A model of torchvision whose classifier is a convolution."""
    start = StartSettings(model="torchvision:squeezenet1_0", weights=str(tmp_path / "x.pth"))
    with pytest.raises(UserError, match=r"^torchvision:squeezenet1_0: models of class SqueezeNet cannot be read"):
        open_model(start)
