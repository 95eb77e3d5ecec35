"""Running statistics against averages taken by hand, in float64, from a network of torch's own modules."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nasdeploy.nn.functional import rescale
from nasdeploy.supernet.evaluate import calibrate
from nasdeploy.supernet.settings import Average
from nasdeploy.supernet.supernet import Supernet, extract, input_side
from tests.nn.reference import randomise, reference_network
from tests.small_spaces import two_stages


def batches(sizes: list[int], side: int = 8) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(size, 3, side, side, dtype=torch.float64) * (number + 1) for number, size in enumerate(sizes)]


def fresh_supernet(seed: int = 0) -> Supernet:
    torch.manual_seed(seed)
    supernet = Supernet(two_stages())
    randomise(supernet)
    return supernet.double()


def norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]


@pytest.mark.parametrize("average", ["cumulative", "image-weighted"])
@pytest.mark.parametrize("sizes", [[4], [4, 4, 4], [5, 2, 3]])
def test_statistics_are_the_mean_over_batches_of_each_batchs_own(sizes: list[int], average: Average) -> None:
    supernet = fresh_supernet()
    network = extract(supernet, supernet.space.largest())
    other = reference_network(network).train()
    seen: dict[nn.BatchNorm2d, list[Tensor]] = {norm: [] for norm in norms(other)}
    for norm, inputs in seen.items():
        norm.register_forward_hook(lambda _, x, __, inputs=inputs: inputs.append(x[0].detach()))
    images = batches(sizes)
    with torch.no_grad():
        for batch in images:
            other(rescale(batch, input_side(network.plan)))
    calibrate(network, images, average=average)
    # Each batch counts by its images in once-for-all, whose variances are the batches' own.
    weights, unbiased = (None, 1) if average == "cumulative" else (sizes, 0)
    assert len(norms(network)) == len(seen)
    for norm, inputs in zip(norms(network), seen.values(), strict=True):
        channels = [x.numpy().swapaxes(0, 1).reshape(x.shape[1], -1) for x in inputs]
        mean = np.average([x.mean(1) for x in channels], axis=0, weights=weights)
        variance = np.average([x.var(1, ddof=unbiased) for x in channels], axis=0, weights=weights)
        np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(norm.running_var.numpy(), variance, rtol=1e-9)


def test_what_was_there_before_does_not_count() -> None:
    first, second = (
        calibrate(extract(supernet, supernet.space.smallest()), batches([3, 3]))
        for supernet in (fresh_supernet(), fresh_supernet())
    )
    for norm in norms(second):
        norm.running_mean.fill_(1e6)
        norm.running_var.fill_(1e6)
    calibrate(second, batches([3, 3]))
    for a, b in zip(norms(first), norms(second), strict=True):
        torch.testing.assert_close(a.running_mean, b.running_mean)
        torch.testing.assert_close(a.running_var, b.running_var)


def test_the_supernet_keeps_its_statistics_and_the_network_ends_in_evaluation_mode() -> None:
    supernet = fresh_supernet()
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    network = extract(supernet, supernet.space.largest())
    images = batches([4])
    assert network.training
    uncalibrated = network.eval()(rescale(images[0], 9))
    assert calibrate(network.train(), images) is network
    assert not network.training
    assert not torch.allclose(network(rescale(images[0], 9)), uncalibrated)
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_no_batch_is_refused() -> None:
    supernet = fresh_supernet()
    with pytest.raises(ValueError, match="at least one batch"):
        calibrate(extract(supernet, supernet.space.smallest()), [])
