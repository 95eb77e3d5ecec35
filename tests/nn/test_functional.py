"""Slicing and regularisation on explicit tensors."""

import pytest
import torch
from torch import nn

from nasdeploy.nn.functional import (
    RUNNING,
    ConvTensors,
    NormTensors,
    Statistics,
    batch_norm,
    centre_crop,
    dense,
    drop_connect,
    each_tensor,
    is_dense,
    rescale,
    slice_matrix,
    slice_norm,
)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1, 1), (4, 5, 3, 3), (4, 1, 7, 7)])
def test_slices_are_leading_views_and_dense_ones_keep_the_layout(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    weight = nn.Parameter(torch.randn(shape))
    if len(shape) == 4:
        weight = nn.Parameter(weight.detach().to(memory_format=layout))
    columns = min(3, shape[1])
    part = slice_matrix(weight, 2, columns)
    assert part.tolist() == weight[:2, :columns].tolist()
    assert part.data_ptr() == weight.data_ptr()
    found = dense(part)
    assert is_dense(found) and torch.equal(found, part)
    if len(shape) == 4:
        assert found.stride() == torch.empty(part.shape).to(memory_format=layout).stride()
    assert slice_matrix(weight, *shape[:2]) is weight
    assert dense(weight) is weight
    torch.autograd.backward(found.square().sum())
    expected = torch.zeros(shape)
    expected[:2, :columns] = 2 * part.detach()
    assert weight.grad is not None and torch.equal(weight.grad, expected)


def test_cropped_kernels_stay_in_their_layout() -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = torch.randn(4, 1, 7, 7).to(memory_format=layout)
        found = dense(centre_crop(weight, 3, 5))
        assert is_dense(found) and torch.equal(found, weight[:3, :, 1:6, 1:6])
        assert found.stride() == torch.empty(3, 1, 5, 5).to(memory_format=layout).stride()


def test_nothing_is_tracked_without_gradients() -> None:
    weight = nn.Parameter(torch.ones(4, 4))
    with torch.no_grad():
        assert not dense(slice_matrix(weight, 2, 2)).requires_grad
    assert weight.grad is None


def test_a_blocks_tensors_are_changed_one_by_one() -> None:
    norm = NormTensors(*torch.arange(4.0))
    found = each_tensor(lambda tensor: tensor + 1, (ConvTensors(torch.zeros(()), norm), None, (torch.ones(()),)))
    assert found == (ConvTensors(torch.ones(()), NormTensors(*torch.arange(1.0, 5.0))), None, (torch.full((), 2.0),))
    assert isinstance(found[0], ConvTensors) and isinstance(found[0].norm, NormTensors)


@pytest.mark.parametrize(("kernel", "places"), [(7, slice(0, 7)), (5, slice(1, 6)), (3, slice(2, 5)), (1, slice(3, 4))])
def test_kernels_are_cropped_around_their_centre(kernel: int, places: slice) -> None:
    weight = torch.arange(4 * 49.0).reshape(4, 1, 7, 7)
    assert torch.equal(centre_crop(weight, 3, kernel), weight[:3, :, places, places])
    assert centre_crop(weight, 4, kernel)[2, 0, kernel // 2, kernel // 2] == weight[2, 0, 3, 3]


def test_normalisations_are_sliced_by_leading_channels() -> None:
    norm = nn.BatchNorm2d(5)
    for tensor in norm.state_dict().values():
        if tensor.ndim:
            tensor.copy_(torch.arange(1.0, 6.0))
    assert [tensor.tolist() for tensor in slice_norm(norm, 2)] == [[1.0, 2.0]] * 4
    assert slice_norm(norm, 5).weight is norm.weight


def test_momentum_moves_running_statistics_as_torchs_own_module() -> None:
    torch.manual_seed(0)
    ours, other = nn.BatchNorm2d(3).double(), nn.BatchNorm2d(3, momentum=0.3).double()
    for _ in range(3):
        x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
        y = batch_norm(x, slice_norm(ours, 3), Statistics(batch=True, momentum=0.3))
        torch.testing.assert_close(y, other(x))
    torch.testing.assert_close(ours.running_mean, other.running_mean)
    torch.testing.assert_close(ours.running_var, other.running_var)
    torch.testing.assert_close(batch_norm(x, slice_norm(ours, 3), RUNNING), other.eval()(x))


def test_drop_connect_without_a_rate_is_the_input_itself() -> None:
    x = torch.ones(3, 2, 1, 1)
    assert drop_connect(x, 0.0) is x


def test_drop_connect_drops_whole_samples_and_keeps_the_mean() -> None:
    x = torch.randn(4000, 3, 2, 2, dtype=torch.float64)
    torch.manual_seed(0)
    y = drop_connect(x, 0.3)
    kept = (y != 0).flatten(1)
    assert torch.equal(kept.all(1), kept.any(1))
    torch.testing.assert_close(y[kept.all(1)], x[kept.all(1)] / 0.7)
    # Five standard deviations of a binomial share.
    assert abs(kept.all(1).double().mean() - 0.7) < 5 * (0.3 * 0.7 / 4000) ** 0.5
    torch.manual_seed(0)
    assert torch.equal(drop_connect(x, 0.3), y)
    torch.manual_seed(1)
    assert not torch.equal(drop_connect(x, 0.3), y)


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75."""
    a, d = -0.75, abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def test_rescaling_is_bicubic_without_aligned_corners_or_antialiasing() -> None:
    row = torch.tensor([1.0, 4.0, -2.0, 3.0, 0.0, 5.0], dtype=torch.float64)
    got = rescale(row.expand(1, 1, 6, 6), 3)[0, 0, 1]
    expected = []
    for place in range(3):
        centre = (place + 0.5) * 6 / 3 - 0.5
        taps = range(int(centre) - 1, int(centre) + 3)
        expected.append(sum(cubic(tap - centre) * row[min(max(tap, 0), 5)].item() for tap in taps))
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


def test_rescaling_to_the_same_side_is_the_input_itself() -> None:
    x = torch.randn(2, 3, 8, 8)
    assert rescale(x, 8) is x
    assert rescale(torch.randn(2, 3, 8, 6), 8).shape == (2, 3, 8, 8)
