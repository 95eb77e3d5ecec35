"""Reading batches with torch's DataLoader: seeded by sample, and with unreadable images named.

Where training stands in the data is (epoch, step), which a checkpoint holds: the order of an epoch and the seed of
each sample are functions of the run's seed, so a loader can start at any batch, and a restart may have more or fewer
workers and processes. For that reason it is not torchdata's StatefulDataLoader, which keeps this apart for each
worker and process: its state can be loaded only by as many of them.

Each worker has torch's default of two batches ahead. A loader lives for an epoch: starting a worker takes less than a
tenth of a second of a core, and workers that stayed would need all epochs to be one order.
"""

import os
import random
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nasdeploy.core.cpus import parallelism
from nasdeploy.core.errors import NasdeployError, UserError
from nasdeploy.data.decode import UnreadableImage
from nasdeploy.data.decoded_file import DecodedBatch
from nasdeploy.data.images import ArrayImages, Images, Indices, warn_of
from nasdeploy.data.settings import DataSettings
from nasdeploy.data.transforms import fetch

_DECODED_AT_ONCE = 16
"""Pictures that a worker hands over together: at most some 10 MB of usual photographs, as /dev/shm may be small."""


class FetchedImages(Images):
    """Images resized and cropped each time that they are asked for."""

    def __init__(self, images: Images, shorter_side: int, size: int) -> None:
        super().__init__(images.labels)
        self._images, self._shorter_side, self._size = images, shorter_side, size

    def image(self, index: int) -> Image.Image:
        """Return one picture, `size` x `size`; see `Images.image`."""
        return fetch(self._images.image(index), self._shorter_side, self._size)

    def subset(self, indices: Sequence[int]) -> "FetchedImages":
        """Return the images at `indices`, in that order."""
        return FetchedImages(self._images.subset(indices), self._shorter_side, self._size)


Transform = Callable[[Image.Image], Tensor]
Seeds = npt.NDArray[np.uint32]
T = TypeVar("T")

_MOST_WORKERS = 8


class _Batch(NamedTuple):
    """Pixels uint8 `[N, 3, S, S]`, labels `[N]`, and the files and defects of images that are missing from it.

    Defects travel as values, because an exception from a worker process arrives with its whole traceback as its text.
    """

    pixels: Tensor
    labels: Tensor
    unreadable: list[tuple[Path, str]]


class _Batches(Dataset[_Batch]):
    """Batches by the indices into `images`, and a seed for each of them if there are any."""

    def __init__(self, images: Images, transform: Transform) -> None:
        self._images, self._transform = images, transform

    def __getitem__(self, wanted: tuple[Sequence[int] | Indices, Seeds | None]) -> _Batch:
        indices, seeds = wanted
        pixels, labels, unreadable = [], [], []
        with _generators_kept():
            for place, index in enumerate(indices):
                try:
                    image, label = self._images[index]
                except UnreadableImage as error:
                    unreadable.append((error.path, error.reason))
                    continue
                if seeds is not None:
                    _seed_generators(int(seeds[place]))
                pixels.append(self._transform(image))
                labels.append(label)
        return _Batch(torch.stack(pixels) if pixels else torch.empty(0), torch.tensor(labels), unreadable)


class _Decoded(NamedTuple):
    """Pixels uint8 `[bytes]`, height and width of each picture `[N, 2]`, 0 of those that are missing, and why."""

    pixels: Tensor
    sizes: Tensor
    unreadable: list[tuple[Path, str]]


class _PicturesInTurn(Dataset[_Decoded]):
    """Pictures as they are, by indices into `images`, without those whose files have `changed`."""

    def __init__(self, images: Images, changed: Callable[[int], bool]) -> None:
        self._images, self._changed = images, changed

    def __getitem__(self, indices: Sequence[int]) -> _Decoded:
        pixels, sizes, unreadable = [], [], []
        for index in indices:
            try:
                picture = np.asarray(self._images.image(index))
            except UnreadableImage as error:
                unreadable.append((error.path, error.reason))
                sizes.append((0, 0))
                continue
            if self._changed(index):
                sizes.append((0, 0))
                continue
            pixels.append(picture.ravel())
            sizes.append(picture.shape[:2])
        joined = np.concatenate([*pixels, np.empty(0, dtype=np.uint8)])
        return _Decoded(torch.from_numpy(joined), torch.tensor(sizes, dtype=torch.int64), unreadable)


def _seed_generators(seed: int) -> None:
    """Seed what torchvision's and timm's transforms draw from. (`torch.manual_seed` would take 100 times as long.)"""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (timm draws from it)


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Leave the global generators, which training draws from, as they were."""
    of_torch, of_python, of_numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(of_torch)
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


def load(
    images: Images,
    batches: Sequence[Sequence[int] | Indices],
    settings: DataSettings,
    transform: Transform,
    seeds: Sequence[Seeds] | None = None,
    pinned: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield transformed pixels and labels of each batch of indices, in `pinned` memory if they go to a GPU.

    Before image j of batch i the generators are seeded by `seeds[i][j]`. Raises `UserError` naming an unreadable image;
    where the settings skip those, a batch is shorter by them.
    """
    wanted = list(zip(batches, repeat(None) if seeds is None else seeds, strict=seeds is not None))
    workers = _workers(images, settings, seeded=seeds is not None)
    last: tuple[Path, str] | None = None
    nothing_read = True
    for pixels, labels, unreadable in _in_order(_Batches(images, transform), wanted, workers, pinned):
        for path, reason in unreadable:
            if settings.on_unreadable == "stop":
                raise UnreadableImage(path, reason)
            warn_of(path, reason)
        if len(labels):
            nothing_read = False
            yield pixels, labels
        elif seeds is not None:
            # A step of training needs images; what is only evaluated may do without the last few.
            raise _unreadable_batch(*unreadable[0])
        else:
            last = unreadable[0]
    if nothing_read and last is not None:
        raise _unreadable_batch(*last)


def _never(index: int) -> bool:
    return False


def decode(
    images: Images, indices: Indices, settings: DataSettings, changed: Callable[[int], bool] = _never
) -> Iterator[DecodedBatch]:
    """Yield pictures as they are, in order; those that have `changed` after they were decoded are left out.

    So are those that cannot be read, where the settings skip these; otherwise it raises `UserError` naming one of them.
    """
    dataset = _PicturesInTurn(images, changed)
    batches = [indices[at : at + _DECODED_AT_ONCE].tolist() for at in range(0, len(indices), _DECODED_AT_ONCE)]
    for pixels, sizes, unreadable in _in_order(dataset, batches, _workers(images, settings, True)):
        if unreadable and settings.on_unreadable == "stop":
            raise UnreadableImage(*unreadable[0])
        yield DecodedBatch(pixels.numpy(), sizes.numpy())


def _in_order(dataset: Dataset[T], wanted: Sequence[Any], workers: int, pinned: bool = False) -> Iterator[T]:
    """Yield what a data set has for each of `wanted`, read by so many processes."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=wanted,
        num_workers=min(workers, len(wanted)),
        generator=torch.Generator(),
        pin_memory=pinned,
        worker_init_fn=_leave_stopping_to_training,
    )
    return _named_deaths(loader)


def _unreadable_batch(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: a whole batch of images is unreadable, this one for one ({reason}); replace them")


def _leave_stopping_to_training(worker: int) -> None:
    """Ignore SIGTERM: schedulers send it to all processes of a job: training still makes a step before it saves and
    leaves."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _named_deaths(loader: Iterable[T]) -> Iterator[T]:
    """Yield the batches; a worker process that is killed (out of memory, most often) ends in one line."""
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise NasdeployError(
            "a process that reads images died, most likely for want of memory; set data.workers lower (0: none), or "
            "give it more (/dev/shm in a container)"
        ) from error


def _workers(images: Images, settings: DataSettings, seeded: bool) -> int:
    """Return processes to read with: none for images in memory, unless a policy makes them expensive."""
    if settings.workers is not None:
        return settings.workers
    if isinstance(images, ArrayImages) and not (seeded and settings.augment.policy != "none"):
        return 0
    # torchrun's processes on a machine share its cores.
    cores = parallelism() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(_MOST_WORKERS, max(1, cores))
