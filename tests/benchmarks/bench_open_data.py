"""How long it takes to open a folder of images the first time and later, and what a search spends on knowing its data.

    python tests/benchmarks/bench_open_data.py [--images 100000] [--rounds 5]

Without identities is how a folder was opened before runs knew the content of their images: names are listed and the
ends of each file looked at. The other openings compare every image with the split that a run was begun with. Times are
medians of rounds in turn, in one process; the page cache is warm, also the first time. What is kept lies in a temporary
home.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, sleep

import numpy as np
from PIL import Image

from nasdeploy.data.datasets import open_data
from nasdeploy.data.decode import looks_whole
from nasdeploy.data.folder import list_folder
from nasdeploy.data.images import ArrayImages, FileImages
from nasdeploy.data.settings import DataSettings
from nasdeploy.data.split import fingerprint_of, split_content, stratified
from nasdeploy.recipe import Recipe, load_recipe
from nasdeploy.store.run import Run
from nasdeploy.workflows.resume import open_data_of

CLASSES = 100
CHUNK, THREADS = 512, 8
OPENINGS = 3
"""In a search: for its evaluations, for strategies that learn from training images, and for finalists in int8."""


def write_images(root: Path, count: int) -> None:
    """PNG files of 8 x 8 pixels of noise, all different, a tenth of them for testing."""
    rng = np.random.default_rng(0)
    for number in range(count):
        folder = root / ("test" if number % 10 == 0 else "train") / f"class{number // 10 % CLASSES:03d}"
        if number < 10 * CLASSES:
            folder.mkdir(parents=True, exist_ok=True)
        file = BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, "PNG", compress_level=0)
        (folder / f"{number:06d}.png").write_bytes(file.getvalue())


def without_identities(root: Path) -> None:
    """Opens a folder as it was: names, the ends of each file, and a split by the seed."""
    listing = list_folder(root)
    classes = listing.classes
    parts = {
        name: [(path, label) for label, each in enumerate(classes) for path in part.get(each, [])]
        for name, part in listing.parts.items()
    }
    files = [path for pairs in parts.values() for path, _ in pairs]
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    with ThreadPoolExecutor(THREADS) as threads:
        assert all(all(found) for found in threads.map(_all_whole, chunks))
    images = {
        name: FileImages([path for path, _ in pairs], [label for _, label in pairs]) for name, pairs in parts.items()
    }
    fingerprint_of(images["train"])
    for part in stratified(images["train"].labels, 0.1, 0, "search"):
        images["train"].subset(part)


def _all_whole(files: Sequence[Path]) -> list[bool]:
    found = []
    for file in files:
        with file.open("rb") as opened:
            found.append(looks_whole(opened))
    return found


def digits_without_identities() -> None:
    """The digits as they are, split by the seed."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = ArrayImages(np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target)
    rest, test = stratified(images.labels, 0.2, 0, "test")
    training, _ = images.subset(rest), images.subset(test)
    for part in stratified(training.labels, 0.1, 0, "search"):
        training.subset(part)


def begun(directory: Path, recipe: Recipe) -> Run:
    """A run as training begins it."""
    sets = open_data(recipe.data, recipe.seed)
    return Run.create(
        directory,
        recipe.name,
        recipe=recipe.to_json(),
        space=recipe.load_space(len(sets.classes)).digest,
        classes=sets.classes,
        images=sets.fingerprint,
        data=(sets.split.facts, split_content(sets.split)),
        seed=recipe.seed,
    )


def seconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def in_turn(rounds: int, *works: Callable[[], object]) -> list[float]:
    """The median time of each."""
    times = [[seconds(work) for work in works] for _ in range(rounds)]
    return [median(column) for column in zip(*times, strict=True)]


def bench_folder(directory: Path, count: int, rounds: int) -> None:
    root = directory / "photos"
    print(f"writing {count} images: {seconds(lambda: write_images(root, count)):.1f} s", flush=True)
    # What was just written is not kept.
    sleep(3)
    data = DataSettings(kind="folder", path=str(root), size=8)
    recipe = load_recipe("digits").model_copy(update={"data": data, "name": "photos"})
    without_identities(root)
    print(f"first time, all files read: {seconds(lambda: open_data(data, recipe.seed)):.2f} s")
    run = begun(directory / "runs", recipe)
    before, later = in_turn(rounds, lambda: without_identities(root), lambda: open_data_of(run, recipe))
    print(
        f"without identities: {before:.2f} s; later, compared with the run: {later:.2f} s; {later / before:.2f} times"
    )


def bench_digits(directory: Path, rounds: int) -> None:
    recipe = load_recipe("digits")
    run = begun(directory / "runs", recipe)
    digits_without_identities()
    before, later = in_turn(4 * rounds, digits_without_identities, lambda: open_data_of(run, recipe))
    cost = 1e3 * (later - before)
    print(f"digits: {1e3 * later:.1f} ms, {cost:.1f} ms more than without identities")
    print(f"a search opens them up to {OPENINGS} times: {OPENINGS * cost:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        os.environ["HOME"] = folder
        bench_digits(Path(folder), given.rounds)
        bench_folder(Path(folder), given.images, given.rounds)


if __name__ == "__main__":
    main()
