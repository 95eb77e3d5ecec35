"""What a file makes of test images is kept, read back, and refused where it is damaged."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from nasdeploy.core.errors import UserError
from nasdeploy.data.images import ArrayImages, FileImages
from nasdeploy.exporting import predictions
from nasdeploy.exporting.predictions import WORST, FilePredictions, PredictionTally

CLASSES = ("ant", "bee", "cat")


def tallied(count: int = 40) -> tuple[FilePredictions, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 3, count), rng.normal(size=(count, 3)).astype(np.float32)
    tally = PredictionTally()
    for at in range(0, count, 7):
        tally.add(labels[at : at + 7], logits[at : at + 7])
    images = ArrayImages(rng.integers(0, 256, (count, 9, 8, 3), dtype=np.uint8), labels)
    return tally.predictions(images, CLASSES), labels, logits


def test_answers_are_those_of_the_logits() -> None:
    found, labels, logits = tallied()
    shares = softmax(logits, axis=1)
    assert found.labels.tolist() == labels.tolist()
    assert found.classes.tolist() == logits.argmax(1).tolist()
    assert found.probabilities == pytest.approx(shares.max(1))
    assert found.probabilities_of_truth == pytest.approx(shares[np.arange(len(labels)), labels])


def test_the_most_confident_mistakes_come_first_with_their_pictures() -> None:
    found, labels, logits = tallied()
    wrong = [place for place in range(len(labels)) if logits[place].argmax() != labels[place]]
    expected = sorted(wrong, key=lambda place: -softmax(logits[place]).max())[:WORST]
    assert [mistake.place for mistake in found.mistakes] == expected
    assert len(expected) == WORST
    assert all(mistake.picture.startswith(b"\x89PNG") for mistake in found.mistakes)
    assert found.mistakes[0].name == f"image {expected[0]} ({CLASSES[labels[expected[0]]]})"


def test_photographs_become_small_and_are_named_without_the_folder_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "test" / "bee" / "x.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (400, 300), "red").save(path)
    missing = tmp_path / "test" / "bee" / "gone.png"
    tally = PredictionTally()
    tally.add(np.array([1, 1]), np.array([[5.0, 0, 0], [4.0, 0, 0]], dtype=np.float32))
    first, second = tally.predictions(FileImages([path, missing], [1, 1]), CLASSES).mistakes
    assert (first.name, second.name) == ("test/bee/x.png", "test/bee/gone.png")
    assert first.picture.startswith(b"\xff\xd8\xff")
    assert len(first.picture) < 5000
    assert second.picture == b""


def test_logits_that_are_no_numbers_have_no_confidence() -> None:
    tally = PredictionTally()
    tally.add(np.array([1]), np.array([[np.nan, np.nan, np.nan]], dtype=np.float32))
    found = tally.predictions(ArrayImages(np.zeros((1, 8, 8), dtype=np.uint8), [1]), CLASSES)
    assert np.isfinite(found.probabilities).all()


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    found, _, _ = tallied()
    found.save(tmp_path / "x.npz")
    back = FilePredictions.load(tmp_path / "x.npz", 3)
    assert back.mistakes == found.mistakes
    for name in ("labels", "classes", "probabilities", "probabilities_of_truth"):
        assert np.array_equal(getattr(back, name), getattr(found, name)), name


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    found, _, _ = tallied()
    found.save(tmp_path / "x.npz")
    whole = (tmp_path / "x.npz").read_bytes()
    for damaged in (b"", b"PK", whole[: len(whole) // 2], whole[:200] + bytes(50) + whole[250:]):
        (tmp_path / "y.npz").write_bytes(damaged)
        with pytest.raises(UserError, match=r"y\.npz: damaged \(.+\); delete it, and it is made anew$"):
            FilePredictions.load(tmp_path / "y.npz", 3)
    with pytest.raises(UserError, match="classes that are not among the 2"):
        FilePredictions.load(tmp_path / "x.npz", 2)


def test_arrays_that_would_fill_the_memory_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "_MOST_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.npy", bytes((1 << 20) + 1))
    with pytest.raises(UserError, match="more than the predictions of a test set"):
        FilePredictions.load(tmp_path / "x.npz", 3)
