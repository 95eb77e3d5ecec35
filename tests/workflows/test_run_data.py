"""Later commands use the images that a run was begun with, for what they were for then, or say what has changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.data import facts as file_facts
from nasdeploy.data.datasets import open_data
from nasdeploy.data.images import Images, ImageSets
from nasdeploy.data.split import split_content
from nasdeploy.recipe import Recipe, parse_recipe, recipe_of
from nasdeploy.store.run import Run
from nasdeploy.workflows.evaluator import open_evaluator
from nasdeploy.workflows.export import export, request_export
from nasdeploy.workflows.resume import open_data_of
from tests.data.pictures import noise, write_folder
from tests.data.shards import png, write_shards, write_tar
from tests.exporting.models import jobs
from tests.small_spaces import ONE_STAGE
from tests.workflows.runs import SPACE, trained_run

PARTS = {"train": {"ant": 8, "bee": 8, "cat": 8}, "test": {"ant": 3, "bee": 3, "cat": 3}}


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recipe(**data: Any) -> Recipe:
    content = {"kind": "folder", "path": "photos", "size": 8, "workers": 0, **data}
    return parse_recipe({"name": "x", "space": ONE_STAGE.model_dump(mode="json"), "data": content}, "recipe")


def begun(**data: Any) -> tuple[Run, ImageSets]:
    """A run as training begins it."""
    given = recipe(**data)
    sets = open_data(given.data, given.seed)
    run = Run.create(
        Path("runs"),
        "x",
        recipe=given.to_json(),
        space="0" * 12,
        classes=sets.classes,
        images=sets.fingerprint,
        data=(sets.split.facts, split_content(sets.split)),
        seed=given.seed,
    )
    return run, sets


def opened(data: str | None = None) -> ImageSets:
    run = Run.open(Path("runs/x"))
    return open_data_of(run, recipe_of(run, data=data))


def pictures(images: Images) -> list[tuple[bytes, int]]:
    return [(image.tobytes(), label) for image, label in (images[place] for place in range(len(images)))]


def all_pictures(sets: ImageSets) -> dict[str, list[tuple[bytes, int]]]:
    return {part: pictures(getattr(sets, part)) for part in ("train", "search", "val", "test")}


def same(a: ImageSets, b: ImageSets) -> bool:
    return all_pictures(a) == all_pictures(b)


def exchange(a: str, b: str) -> None:
    Path(a).rename("between")
    Path(b).rename(a)
    Path("between").rename(b)


def copy_over(source: str, target: str) -> None:
    for file in Path(source).iterdir():
        shutil.copy(file, Path(target, file.name))


def remove(folder: str) -> None:
    shutil.rmtree(folder)


def empty_class() -> None:
    for file in Path("photos/test/bee").iterdir():
        file.unlink()


def reencode() -> None:
    noise(10, 10, seed=3).save("photos/train/ant/3.png", compress_level=0)


def to_another_part() -> None:
    Path("photos/test/cat/1.png").rename("photos/train/cat/from-test.png")


def add() -> None:
    noise(10, 10, seed=77).save("photos/val.png")
    Path("photos/val/bee").mkdir(parents=True)
    Path("photos/val.png").rename("photos/val/bee/0.png")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: remove("photos/test"), "9 missing (for testing; the first is test/ant/0.png)"),
        (empty_class, "3 missing (for testing; the first is test/bee/0.png)"),
        (
            lambda: exchange("photos/train/ant", "photos/train/cat"),
            "16 in another class (14 for training, 2 held out; the first is train/ant/0.png)",
        ),
        (
            lambda: exchange("photos/test/ant", "photos/test/cat"),
            "6 in another class (for testing; the first is test/ant/0.png)",
        ),
        (
            lambda: copy_over("photos/train/ant", "photos/test/ant"),
            "3 changed (for testing; the first is test/ant/0.png), 5 new (in test; the first is test/ant/3.png)",
        ),
        (reencode, "1 changed (for training; the first is train/ant/3.png)"),
        (lambda: Path("photos/train/bee/5.png").unlink(), "1 missing (for training; the first is train/bee/5.png)"),
        (add, "1 new (in val; the first is val/bee/0.png)"),
        (to_another_part, "1 in another part (for testing; the first is test/cat/1.png)"),
        (
            lambda: Path("photos/train/bee/5.png").rename("photos/train/bee/50.png"),
            "1 renamed (for training; the first is train/bee/5.png)",
        ),
        (
            lambda: exchange("photos/train/ant/0.png", "photos/test/ant/0.png"),
            "2 in another part (1 for training, 1 for testing; the first is train/ant/0.png)",
        ),
    ],
)
def test_what_changed_is_said_in_one_line(change: Callable[[], object], said: str) -> None:
    write_folder(Path("photos"), PARTS)
    begun()
    change()
    with pytest.raises(UserError) as caught:
        opened()
    assert typed(caught.value) == (
        f"data: these are not the images that runs/x was begun with, {said}; restore them, give the folder that holds "
        "them with --data, or train another run"
    )


def test_test_images_that_come_later_are_no_part_of_the_run() -> None:
    write_folder(Path("photos"), {"train": PARTS["train"]})
    begun()
    write_folder(Path("photos"), {"test": {"ant": 2, "bee": 2}})
    with pytest.raises(UserError, match=r"begun with, 4 new \(in test; the first is test/ant/0\.png\)"):
        opened()


def test_a_class_folder_that_was_renamed_is_named() -> None:
    write_folder(Path("photos"), {"train": PARTS["train"]})
    begun()
    Path("photos/train/bee").rename("photos/train/wasp")
    with pytest.raises(UserError, match=r"not those that runs/x learned \(without bee, with wasp\)"):
        opened()


def test_the_same_images_elsewhere_touched_and_in_another_order_are_the_same() -> None:
    write_folder(Path("photos"), PARTS)
    # As names are in NFD on some file systems, which sorts them differently.
    Path("photos/train/ant/0.png").rename("photos/train/ant/\u00e4.png")
    expected = all_pictures(begun()[1])
    shutil.copytree("photos", "moved/deeper", copy_function=shutil.copyfile)
    Path("moved/deeper/train/ant/\u00e4.png").rename("moved/deeper/train/ant/a\u0308.png")
    remove("photos")
    assert all_pictures(opened("moved/deeper")) == expected


def test_the_split_is_that_of_the_run_and_not_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(Path("photos"), {"train": PARTS["train"]})
    _, sets = begun(images_per_class=5)
    monkeypatch.setattr("nasdeploy.data.split.generator", lambda *purpose: np.random.default_rng(99))
    assert not same(open_data(recipe(images_per_class=5).data, 0), sets)
    assert same(opened(), sets)


def test_a_set_too_large_to_read_is_known_by_names_and_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(Path("photos"), PARTS, suffix=".bmp")
    monkeypatch.setattr(file_facts, "MOST_READ_BYTES", 1)
    run, sets = begun()
    assert run.manifest.data is not None
    assert run.manifest.data.compared_by == "names and sizes"
    Path("photos/train/ant/0.bmp").write_bytes(Path("photos/train/ant/1.bmp").read_bytes())
    assert len(opened().train) == len(sets.train)
    with Path("photos/train/ant/0.bmp").open("ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match=r"1 changed \(for training; the first is train/ant/0\.bmp\)"):
        opened()


def test_shards_are_compared_by_the_images_in_them() -> None:
    write_shards(Path("photos"), PARTS)
    _, sets = begun(kind="shards")
    assert same(opened(), sets)
    samples = [{"__key__": f"{seed:05d}", "png": png(seed), "cls": name} for seed, name in enumerate((b"ant", b"bee"))]
    kept = Path("photos/train/0000.tar").read_bytes()
    write_tar(Path("photos/train/0000.tar"), samples)
    with pytest.raises(UserError, match=r"begun with, 3 missing"):
        opened()
    Path("photos/train/0000.tar").write_bytes(kept.replace(png(0), png(0)[:-20] + b"x" + png(0)[-19:]))
    with pytest.raises(UserError, match=r"1 changed \(for training; the first is train/0000\.tar/00000\.png\)"):
        opened()
    Path("photos/train/0000.tar").write_bytes(kept)
    assert same(opened(), sets)


def test_digits_are_always_the_same() -> None:
    _, sets = begun(kind="digits", path=None)
    assert same(opened(), sets)


@pytest.mark.parametrize("damage", [lambda old: b"", lambda old: old[:-500], lambda old: b"x" * len(old), None])
def test_a_damaged_record_is_named(damage: Callable[[bytes], bytes] | None) -> None:
    write_folder(Path("photos"), PARTS)
    run, _ = begun()
    content = run.split.read_bytes()
    run.split.unlink()
    if damage:
        run.split.write_bytes(damage(content))
    with pytest.raises(UserError, match=r"runs/x/data\.npz: .*; restore it from a copy of the run, or train anew"):
        opened()


def test_a_record_of_another_run_is_named() -> None:
    write_folder(Path("photos"), PARTS)
    run, _ = begun()
    other = open_data(recipe().data, seed=1)
    run.split.write_bytes(split_content(other.split))
    with pytest.raises(UserError, match="damaged, or of another run"):
        opened()


def test_runs_of_earlier_versions_are_split_by_their_seed() -> None:
    write_folder(Path("photos"), PARTS)
    run, sets = begun()
    manifest = run.manifest.model_copy(update={"data": None})
    (run.path / "manifest.json").write_text(manifest.model_dump_json(exclude={"data"}))
    run.split.unlink()
    assert same(opened(), sets)
    Path("photos/train/ant/0.png").unlink()
    with pytest.raises(UserError, match="the training images are not those that runs/x was begun with"):
        opened()


def test_files_not_named_in_utf8_are_images_like_others() -> None:
    write_folder(Path("photos"), PARTS)
    odd = [b"M\xfcller.png", b"\x81.png", b"line\nend.png", b"caf\xe9.txt"]
    names = [name.decode(errors="surrogateescape") for name in odd]
    for number, name in enumerate(names):
        Path(f"photos/train/ant/{number}.png").rename(f"photos/train/ant/{name}")
    Path("photos/train/bee", names[0]).write_bytes(b"")
    _, sets = begun(on_unreadable="skip")
    assert sets.notes[0] == "photos/train: ant: 1 of 8 are .txt, which are no images: passed over"
    assert len(sets.train) + len(sets.search) == 7 + 8 + 8
    assert same(opened(), sets)
    Path("photos/train/ant", names[1]).unlink()
    with pytest.raises(UserError, match=r"1 missing \(held out; the first is train/ant/\\x81\.png\)"):
        opened()


def as_before_nfc(run: Run, *names: str) -> None:
    """The manifest of a run of an earlier version, which kept the names of class folders as they were written."""
    manifest = json.loads((run.path / "manifest.json").read_text())
    del manifest["data"]
    (run.path / "manifest.json").write_text(json.dumps({**manifest, "classes": names}))
    run.split.unlink()


def test_a_run_with_classes_in_decomposed_form_goes_on_unless_their_order_changes() -> None:
    write_folder(Path("photos"), {"train": {"Mu\u0308ller": 8, "ant": 8}})
    run, sets = begun()
    assert sets.classes == ("M\u00fcller", "ant")
    as_before_nfc(run, "Mu\u0308ller", "ant")
    assert same(opened(), sets)
    write_folder(Path("photos"), {"train": {"Mz": 8}})
    with pytest.raises(UserError, match=r"not those that runs/x learned \(with Mz\)"):
        opened()
    run.discard(run.path)
    run, _ = begun()
    as_before_nfc(run, "Mu\u0308ller", "Mz", "ant")
    with pytest.raises(UserError) as caught:
        opened()
    assert typed(caught.value) == (
        "data: the classes have another order than when runs/x was begun, so that labels would mean something else; "
        "train another run, or go on with the version of nasdeploy that began it"
    )


def test_search_evaluate_and_export_refuse_other_images(tmp_path: Path) -> None:
    run = trained_run(tmp_path)
    remove(str(tmp_path / "images/test"))
    (weights,) = run.checkpoints.iterdir()
    with pytest.raises(UserError, match=r"begun with, 75 missing \(for testing"):
        open_evaluator(run, recipe_of(run), SPACE, weights)
    request = request_export(run, recipe_of(run), "t0", None, Progress(quiet=True))
    with pytest.raises(UserError, match=r"begun with, 75 missing \(for testing"):
        export(request, jobs(), Progress(quiet=True))
