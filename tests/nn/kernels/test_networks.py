"""Networks whose blocks are computed by kernels on a GPU learn what they learn without."""

import pytest
import torch
from torch import Tensor

from nasdeploy.nn import kernels
from nasdeploy.supernet.supernet import Supernet
from tests.nn.reference import randomise
from tests.small_spaces import two_stages

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def learned() -> tuple[Tensor, dict[str, Tensor]]:
    """The outputs of the largest network on a GPU in channels-last layout, and the gradients of its weights."""
    torch.manual_seed(0)
    supernet = Supernet(two_stages())
    randomise(supernet)
    supernet.to("cuda").to(memory_format=torch.channels_last)
    images = torch.randn(6, 3, 16, 16).cuda().to(memory_format=torch.channels_last)
    outputs = supernet(images, supernet.space.largest())
    outputs.square().sum().backward()
    return outputs.detach(), {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None}


def test_gradients_of_a_network_are_the_same_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    with kernels.everywhere():
        outputs, gradients = learned()
    asked = []
    monkeypatch.setattr(kernels, "serve", lambda x: asked.append(x.shape))
    plain, wanted = learned()
    assert asked
    torch.testing.assert_close(outputs, plain, rtol=1e-3, atol=1e-4)
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        scale = float(wanted[name].abs().max())
        torch.testing.assert_close(gradient, wanted[name], rtol=0, atol=2e-3 * scale + 1e-5, msg=name)
