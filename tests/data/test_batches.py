import os
import random
import signal
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from nasdeploy.core.errors import NasdeployError, UserError
from nasdeploy.data.batches import TrainingBatches, calibration_batches, evaluation_batches, steps_per_epoch
from nasdeploy.data.cache import fetched
from nasdeploy.data.images import ArrayImages, FileImages
from nasdeploy.data.loader import FetchedImages, load
from nasdeploy.data.settings import AugmentSettings, DataSettings
from nasdeploy.data.transforms import fetch, normalise
from tests.data.arrays import noise_images
from tests.data.pictures import write_folder

RANDOM_CROP = AugmentSettings(policy="rand-m5-mstd0.5")
PAD = AugmentSettings(crop="pad", pad=1)
DATA = DataSettings(kind="digits", size=8, augment=PAD, workers=0)


def with_changes(**changes: object) -> DataSettings:
    return DATA.model_copy(update=changes)


def files(root: Path, side: int = 10) -> FileImages:
    write_folder(root, {"train": {"a": 6, "b": 5}}, side)
    paths = sorted(root.glob("train/*/*.png"))
    return FileImages(paths, [int(path.parent.name == "b") for path in paths])


def same(a: Iterable[tuple[Tensor, Tensor]], b: Iterable[tuple[Tensor, Tensor]]) -> bool:
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b, strict=True))


@pytest.mark.parametrize("augment", [RANDOM_CROP, PAD])
def test_workers_and_restarts_change_nothing(tmp_path: Path, augment: AugmentSettings) -> None:
    images = files(tmp_path)
    settings = with_changes(augment=augment)
    alone = list(TrainingBatches(images, settings, 2, 3).epoch(1))
    assert len(alone) == steps_per_epoch(images, 2) == 5
    with_two = TrainingBatches(files(tmp_path), settings.model_copy(update={"workers": 2}), 2, 3).epoch(1)
    assert same(alone, with_two)
    assert same(alone[2:], TrainingBatches(images, settings, 2, 3).epoch(1, start=2))
    assert not list(TrainingBatches(images, settings, 2, 3).epoch(1, start=5))


def test_epochs_and_seeds_differ_in_order_and_augmentation() -> None:
    images = noise_images([1] * 40)
    runs = [(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    orders, pictures = set(), set()
    for seed, epoch in runs:
        x, y = (torch.cat(parts) for parts in zip(*TrainingBatches(images, DATA, 8, seed).epoch(epoch), strict=True))
        assert sorted(y.tolist()) == list(range(40))
        orders.add(tuple(y.tolist()))
        pictures.add(x[y.argsort()].numpy().tobytes())
    assert len(orders) == len(pictures) == len(runs)


def test_the_last_batch_is_dropped_unless_it_is_the_only_one() -> None:
    assert [len(y) for _, y in TrainingBatches(noise_images([7, 4]), DATA, 4, 0).epoch(0)] == [4, 4]
    assert [len(y) for _, y in TrainingBatches(noise_images([2, 1]), DATA, 4, 0).epoch(0)] == [3]


def test_the_global_generators_are_left_alone() -> None:
    images = noise_images([4, 4])
    settings = with_changes(augment=RANDOM_CROP)

    def draws() -> tuple[float, float, float]:
        return torch.rand(1).item(), random.random(), np.random.rand()  # noqa: NPY002

    def seed() -> None:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002

    seed()
    expected = [draws() for _ in range(4)]
    seed()
    found = [draws()]
    for _ in TrainingBatches(images, settings, 4, 0).epoch(0):
        found.append(draws())
    list(evaluation_batches(images, settings, 4))
    assert [*found, draws()] == expected


@pytest.mark.parametrize("shorter_side", [None, 12])
def test_evaluation_is_in_order_and_exact(tmp_path: Path, shorter_side: int | None) -> None:
    images = files(tmp_path)
    settings = with_changes(resize=shorter_side)
    batches = list(evaluation_batches(images, settings, 4))
    assert [len(y) for _, y in batches] == [4, 4, 3]
    pictures = [fetch(images.image(i), settings.shorter_side, 8) for i in range(11)]
    expected = normalise(torch.stack([pil_to_tensor(picture) for picture in pictures]), settings.mean, settings.std)
    assert torch.equal(torch.cat([x for x, _ in batches]), expected)
    assert torch.cat([y for _, y in batches]).tolist() == list(images.labels)
    assert same(batches, evaluation_batches(files(tmp_path), settings.model_copy(update={"workers": 2}), 4))


def test_small_sets_are_decoded_once_and_large_ones_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, again = files(tmp_path), files(tmp_path)
    in_memory = fetched(images, DATA)
    assert isinstance(in_memory, ArrayImages)
    assert fetched(images, DATA) is in_memory
    assert fetched(images, with_changes(size=6)) is not in_memory
    kept = list(TrainingBatches(images, DATA, 4, 0).epoch(0))
    monkeypatch.setattr("nasdeploy.data.cache._MOST_BYTES", 100)
    assert isinstance(fetched(again, DATA), FetchedImages)
    assert same(kept, TrainingBatches(again, DATA, 4, 0).epoch(0))


def test_arrays_of_the_right_size_are_used_as_they_are() -> None:
    images = noise_images([4, 4], side=8)
    assert fetched(images, DATA) is images
    assert fetched(images, with_changes(resize=9)) is not images


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [RANDOM_CROP, PAD])
def test_an_image_that_breaks_later_stops_with_its_name(tmp_path: Path, workers: int, augment: AugmentSettings) -> None:
    images = files(tmp_path)
    bad = images.path(3)
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(UserError) as caught:
        list(TrainingBatches(images, with_changes(workers=workers, augment=augment), 11, 0).epoch(0))
    assert str(caught.value).startswith(f"{bad}: cannot be read as an image")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [RANDOM_CROP, PAD])
@pytest.mark.filterwarnings("ignore:left out")
def test_or_is_left_out_where_the_recipe_allows(tmp_path: Path, workers: int, augment: AugmentSettings) -> None:
    images = files(tmp_path)
    whole = next(iter(TrainingBatches(images, with_changes(augment=augment), 11, 0).epoch(0)))
    images = files(tmp_path)
    images.path(3).write_bytes(b"")
    settings = with_changes(workers=workers, augment=augment, on_unreadable="skip")
    pixels, labels = next(iter(TrainingBatches(images, settings, 11, 0).epoch(0)))
    assert len(labels) == 10
    assert {x.numpy().tobytes() for x in pixels} < {x.numpy().tobytes() for x in whole[0]}
    assert sum(len(y) for _, y in evaluation_batches(images, settings, 4)) == 10


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    images = files(tmp_path)
    images.path(3).write_bytes(b"")
    with pytest.warns(UserWarning, match=f"^left out: {images.path(3)} \\(no known format\\)$"):
        list(TrainingBatches(images, with_changes(on_unreadable="skip", augment=RANDOM_CROP), 11, 0).epoch(0))


@pytest.mark.filterwarnings("ignore:left out")
def test_a_batch_without_any_readable_image_stops(tmp_path: Path) -> None:
    images = files(tmp_path)
    for i in range(len(images)):
        images.path(i).write_bytes(b"")
    with pytest.raises(UserError, match="a whole batch of images is unreadable"):
        list(TrainingBatches(images, with_changes(on_unreadable="skip", augment=RANDOM_CROP), 4, 0).epoch(0))


def test_calibration_batches_repeat_by_seed_and_go_on_past_the_end() -> None:
    images = noise_images([6, 6])
    held = calibration_batches(images, DATA, batch_size=4, count=7, seed=0)
    batches = list(held)
    assert len(held) == len(batches) == 7
    assert all(torch.equal(a, b) for a, b in zip(batches, held, strict=True))
    assert all(batch.shape == (4, 3, 8, 8) and batch.dtype == torch.float32 for batch in batches)
    assert len({batch.numpy().tobytes() for batch in batches}) == 7
    again = list(calibration_batches(images, DATA, batch_size=4, count=9, seed=0))
    assert all(torch.equal(a, b) for a, b in zip(batches, again[:7], strict=True))
    assert not torch.equal(batches[0], next(iter(calibration_batches(images, DATA, 4, 1, seed=1))))
    training = next(iter(TrainingBatches(images, DATA, 4, 0).epoch(0)))[0]
    assert not torch.equal(batches[0], training)
    assert [batch.device.type for batch in held.to(torch.device("meta"))] == 7 * ["meta"]


def test_batches_are_moved_as_bytes_and_from_pinned_memory_to_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise_images([4, 4])
    moved = list(TrainingBatches(images, DATA, 4, 0, device=torch.device("meta")).epoch(0))
    assert [(x.device.type, y.device.type) for x, y in moved] == 2 * [("meta", "meta")]
    pinned = []

    def recording(*given: object, pin_memory: bool, **others: object) -> list[object]:
        pinned.append(pin_memory)
        return []

    monkeypatch.setattr("nasdeploy.data.loader.DataLoader", recording)
    for device in ("cpu", "cuda"):
        list(TrainingBatches(images, DATA, 4, 0, device=torch.device(device)).epoch(0))
    assert pinned == [False, True]


@pytest.mark.parametrize(
    ("cores", "quota", "processes", "workers"),
    [(1, None, 1, 1), (6, None, 1, 6), (64, None, 1, 8), (16, None, 4, 4), (2, None, 4, 1), (64, 2.5, 1, 2)],
)
def test_processes_of_a_machine_share_its_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, quota: float | None, processes: int, workers: int
) -> None:
    started = []

    def recording(*given: object, num_workers: int, **others: object) -> list[object]:
        started.append(num_workers)
        return []

    monkeypatch.setattr("nasdeploy.data.loader.DataLoader", recording)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setattr("nasdeploy.core.cpus.cpu_quota", lambda root: quota)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    settings = with_changes(workers=None, augment=RANDOM_CROP)
    list(TrainingBatches(files(tmp_path), settings, 1, 0).epoch(0))
    list(TrainingBatches(files(tmp_path), settings.model_copy(update={"workers": 3}), 1, 0).epoch(0))
    assert started == [workers, 3]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_on_a_gpu_are_those_on_the_cpu(workers: int, tmp_path: Path) -> None:
    images, settings = files(tmp_path), with_changes(augment=RANDOM_CROP, workers=workers)
    moved = TrainingBatches(images, settings, 4, 0, device=torch.device("cuda")).epoch(0)
    for (x, y), (u, v) in zip(moved, TrainingBatches(images, settings, 4, 0).epoch(0), strict=True):
        # Normalised there, in an order of operations of its own.
        torch.testing.assert_close(x.cpu(), u, rtol=1e-5, atol=1e-5)
        assert torch.equal(y.cpu(), v)


def die(image: Image.Image) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_reading_process_that_is_killed_is_named() -> None:
    with pytest.raises(NasdeployError, match="a process that reads images died"):
        list(load(noise_images([2]), [[0], [1]], with_changes(workers=1), die))


def asked_to_stop(image: Image.Image) -> Tensor:
    os.kill(os.getpid(), signal.SIGTERM)
    return torch.zeros(3, 8, 8, dtype=torch.uint8)


def test_a_reading_process_outlives_what_stops_a_job() -> None:
    """Schedulers send SIGTERM to all processes of a job, and training still makes a step before it saves."""
    assert len(list(load(noise_images([2]), [[0], [1]], with_changes(workers=1), asked_to_stop))) == 2


def test_a_mistake_in_a_transform_is_not_taken_for_a_damaged_image() -> None:
    def fail(image: Image.Image) -> Tensor:
        raise RuntimeError("mistake")

    with pytest.raises(RuntimeError, match="mistake"):
        list(load(noise_images([2]), [[0]], with_changes(on_unreadable="skip"), fail))
