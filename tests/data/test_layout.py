"""Folders that have not quite the right form get the advice that fits, and what is ignored is named."""

import shlex
import subprocess
from pathlib import Path

import pytest

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.data.folder import list_folder
from nasdeploy.data.layout import beside, meant
from tests.data.test_walk import write

CLASSES = ("cat", "dog")


def classes(root: Path, below: str) -> Path:
    return write(root, *(f"{below}/{name}/{number}.jpg" for name in CLASSES for number in range(3)))


def message(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        list_folder(root)
    assert "\n" not in typed(caught.value)
    return typed(caught.value)


def advised(said: str) -> str:
    """The command after `run: `."""
    return said.partition("run: ")[2].partition(" (as it is")[0]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *(("valid", "val"), ("validation", "val"), ("Val", "val"), ("dev", "val"), ("eval", "val"), ("val2017", "val")),
        *(("Test", "test"), ("testing", "test"), ("tests", "test"), ("test_images", "test"), ("TestSet", "test")),
        *(("Train", "train"), ("training", "train"), ("train_set", "train"), ("trian", "train"), ("tset", "test")),
        *((name, None) for name in ("cat", "images", "", "labels", "text", "brain", "2017", "dataset")),
    ],
)
def test_what_a_name_stands_for(name: str, part: str | None) -> None:
    assert meant(name) == part


def test_other_names_of_parts_are_named_with_the_command(tmp_path: Path) -> None:
    root = classes(tmp_path / "my photos", "train")
    classes(root, "valid"), classes(root, "Test")
    first, second = list_folder(root).notes
    assert first.startswith(f"{root}: Test/ is passed over; did you mean test? run: mv '{root}/Test' '{root}/test' (")
    assert f"{root}: valid/ is passed over; did you mean val? run: " in second
    for note in (first, second):
        subprocess.run(advised(note), shell=True, check=True)
    found = list_folder(root)
    assert (set(found.parts), found.notes) == ({"train", "val", "test"}, ())


def test_a_second_part_of_one_kind_is_named(tmp_path: Path) -> None:
    classes(tmp_path, "train"), classes(tmp_path, "val"), classes(tmp_path, "development")
    assert list_folder(tmp_path).notes == (
        f"{tmp_path}: development/ is passed over, for there is val/ too; move what is missing there into it",
    )


def test_everything_else_beside_the_parts_is_named(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.jpg", "labels.csv", "extra/x.jpg", "README", "test.csv", "zoo/1", "__MACOSX/a", ".git/x")
    assert beside(tmp_path, {"README"}) == [
        f"{tmp_path}: passed over beside train/: extra/, labels.csv, test.csv and 1 more",
        f"{tmp_path}: hidden or of tools, and passed over: .git/, __MACOSX/",
    ]


def test_a_train_folder_of_another_name_can_be_renamed(tmp_path: Path) -> None:
    root = classes(tmp_path, "Training")
    said = message(root)
    assert said.startswith(f"{root}: has no train folder, but Training/: run: mv ")
    subprocess.run(advised(said), shell=True, check=True)
    assert list_folder(root).classes == CLASSES


@pytest.mark.parametrize("given", ["photos/train", "photos/train/cat", "photos/test", "photos/test/dog"])
def test_a_part_or_a_class_that_was_given_leads_to_the_folder_above(given: str, tmp_path: Path) -> None:
    root = classes(tmp_path, "photos/train") / "photos"
    classes(root, "test")
    said = message(tmp_path / given)
    assert said.endswith(f": give that, --data {root}")
    assert list_folder(Path(shlex.split(said)[-1])).classes == CLASSES


@pytest.mark.parametrize("inner", ["photos", "data/images", "archive/raw-img"])
def test_a_folder_too_many_around_it_is_found(inner: str, tmp_path: Path) -> None:
    classes(tmp_path, f"{inner}/train")
    said = message(tmp_path)
    assert (
        said == f"{tmp_path}: has no train folder, but {tmp_path}/{inner} has one: give that, --data {tmp_path}/{inner}"
    )


def test_several_data_sets_in_a_folder_are_offered(tmp_path: Path) -> None:
    classes(tmp_path, "a/train"), classes(tmp_path, "b/train")
    assert message(tmp_path).endswith(f"give that, --data {tmp_path}/a (or another of 2 such folders)")


def test_classes_that_hold_the_parts_are_told(tmp_path: Path) -> None:
    write(tmp_path, *(f"{name}/{part}/1.jpg" for name in CLASSES for part in ("train", "test")))
    said = "has no train folder, but cat, dog have: put the classes into the parts, as in"
    assert message(tmp_path) == f"{tmp_path}: {said} {tmp_path}/train/cat/"


def test_classes_straight_in_the_folder_can_be_moved(tmp_path: Path) -> None:
    root = classes(tmp_path, "my photos") / "my photos"
    said = message(root)
    assert said.startswith(f"{root}: has no train folder; its folders look like classes (cat, dog): run: mv ")
    subprocess.run(advised(said), shell=True, check=True)
    assert list_folder(root).classes == CLASSES


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ("a.jpg", "b.png"),
            ", but 2 images (a.jpg, b.png): nothing says what they show; put those of each class into",
        ),
        (("a.tar", "b.tar"), ", but tar files (a.tar, b.tar): if they are shards, run: mkdir "),
        (("photos.zip",), ", but archives (photos.zip): unpack them"),
        (("labels.csv", "other/x.txt"), " (it holds other/, labels.csv); put the data into "),
    ],
)
def test_what_it_holds_instead_is_said(names: tuple[str, ...], said: str, tmp_path: Path) -> None:
    root = write(tmp_path / "photos", *names)
    assert message(root).startswith(f"{root}: has no train folder{said}")


def test_a_file_and_nothing_are_told_apart(tmp_path: Path) -> None:
    assert "nowhere: no such folder; give the one that holds train/CLASS/" in message(tmp_path / "nowhere")
    write(tmp_path, "photos.zip")
    assert "photos.zip: is no folder; unpack it if it is an archive" in message(tmp_path / "photos.zip")


def test_a_path_that_no_recipe_can_hold_is_refused(tmp_path: Path) -> None:
    root = classes(tmp_path / b"ph\xf6tos".decode(errors="surrogateescape"), "train")
    assert message(root) == f"{tmp_path}/ph\\xf6tos: the path is not UTF-8, so that no recipe can hold it; rename it"


# -- inside the parts


@pytest.mark.parametrize("deep", ["images", "images/all", "train"])
def test_classes_that_lie_too_deep_can_be_moved(deep: str, tmp_path: Path) -> None:
    root = classes(tmp_path, f"train/{deep}")
    (root / "train/labels").mkdir()
    said = message(root)
    assert said.startswith(f"{root}/train: all images lie in {deep.partition('/')[0]}/, and {root}/train/{deep} holds ")
    assert "look like the classes (cat, dog); run: mv " in said
    subprocess.run(advised(said), shell=True, check=True)
    assert list_folder(root).classes == CLASSES


def test_test_classes_that_lie_too_deep_can_be_moved(tmp_path: Path) -> None:
    root = classes(classes(tmp_path, "train"), "test/images")
    subprocess.run(advised(message(root)), shell=True, check=True)
    assert set(list_folder(root).parts["test"]) == set(CLASSES)


@pytest.mark.parametrize("place", ["", "unknown/", "test/", "0/"])
def test_test_images_without_labels_can_be_set_apart(place: str, tmp_path: Path) -> None:
    root = write(classes(tmp_path, "train"), f"test/{place}1.jpg", f"test/{place}2.jpg")
    said = message(root)
    assert "nothing says what the" in said
    command = f"mv {root}/test {root}/unlabelled-test"
    assert f"keep them elsewhere ({command}) and classify them once there is a model, with: nasdeploy predict" in said
    subprocess.run(command, shell=True, check=True)
    assert list_folder(root).notes == (f"{root}: passed over beside train/: unlabelled-test/",)


def test_images_straight_in_train_are_told(tmp_path: Path) -> None:
    root = write(tmp_path, *(f"train/{number}.jpg" for number in range(5)), "train/labels/x.txt")
    assert message(root) == (
        f"{root}/train: holds 5 images (0.jpg, 1.jpg, 2.jpg and 2 more) outside class folders: nothing says what they "
        f"show; put those of each class into {root}/train/CLASS/"
    )


def test_a_class_without_images_says_what_it_holds(tmp_path: Path) -> None:
    root = write(classes(tmp_path, "train"), *(f"train/emu/{number}.heic" for number in range(4)), "train/emu/x.txt")
    assert message(root).startswith(
        f"{root}/train/emu: holds no images (but 4 .heic, 1 .txt, which cannot be read: convert"
    )
    (root / "train/fox").mkdir()
    for path in (root / "train/emu").iterdir():
        path.rename(root / "train/cat" / path.name)
    assert message(root) == f"{root}/train/emu: holds no images; add some, or remove the folder"


def test_classes_of_folders_of_the_same_names_are_pointed_out(tmp_path: Path) -> None:
    root = write(tmp_path, *(f"train/{year}/{name}/1.jpg" for name in CLASSES for year in (2020, 2021)))
    found = list_folder(root)
    assert found.classes == ("2020", "2021")
    assert found.notes == (
        f"{root}/train: the classes (2020, 2021) hold only folders, and the same ones (cat, dog); if these are the "
        f"classes, put them straight into {root}/train/",
    )
    write(root, "train/2020/1.jpg")
    assert list_folder(root).notes == ()


def test_a_class_that_is_a_link_to_another_is_told(tmp_path: Path) -> None:
    root = classes(tmp_path, "train")
    (root / "train/kitty").symlink_to("cat")
    said = "holds no images (it is a link to a folder that was read already); add some, or remove the folder"
    assert message(root) == f"{root}/train/kitty: {said}"


def test_a_part_may_be_a_link_to_a_folder_beside_it(tmp_path: Path) -> None:
    root = classes(classes(tmp_path, "train"), "dev")
    (root / "val").symlink_to("dev")
    assert list_folder(root).notes == ()


# -- names of classes


def test_one_class_in_two_forms_is_one_class(tmp_path: Path) -> None:
    root = write(
        tmp_path, *(f"train/{name}/1.jpg" for name in ("Mz", "M\u00fcller")), "test/Mu\u0308ller/1.jpg", "test/Mz/1.jpg"
    )
    found = list_folder(root)
    assert found.classes == ("Mz", "M\u00fcller")
    assert found.parts["test"]["M\u00fcller"] == [root / "test/Mu\u0308ller/1.jpg"]
    assert found.notes == ()


def test_classes_that_look_alike_are_refused_in_any_part(tmp_path: Path) -> None:
    root = classes(classes(tmp_path, "train"), "test")
    write(root, "test/Cat/1.jpg")
    assert message(root).startswith(f"{root}/test: the classes 'Cat' and 'cat' are equal but for ")


def test_a_class_written_otherwise_in_test_can_be_renamed(tmp_path: Path) -> None:
    root = write(classes(tmp_path, "train"), "test/Cat/1.jpg", "test/dog/1.jpg")
    said = message(root)
    assert said.startswith(f"{root}/test/Cat: in {root}/train it is written 'cat', not 'Cat'; run: mv ")
    subprocess.run(advised(said), shell=True, check=True)
    assert set(list_folder(root).parts["test"]) == set(CLASSES)


def test_a_folder_not_named_in_utf8_can_be_renamed(tmp_path: Path) -> None:
    name = b"M\xfcller & co".decode(errors="surrogateescape")
    root = write(classes(tmp_path / "my photos", "train"), f"train/{name}/1.jpg")
    command = message(root).partition("in bash for instance with: ")[2]
    assert command.isprintable()
    subprocess.run(["bash", "-c", command], check=True)
    assert list_folder(root).classes == ("M\u00fcller & co", *CLASSES)


def test_what_links_lead_to_is_not_passed_over(tmp_path: Path) -> None:
    root = write(classes(tmp_path, "train"), "pool/new/1.jpg", "other/1.jpg")
    (root / "train/cat/more").symlink_to("../../pool/new")
    assert list_folder(root).notes == (
        f"{root}: passed over beside train/: other/",
        f"{root}/train: links to folders, followed: cat/more",
    )


@pytest.mark.parametrize("name", [b"M\xfcller", b"\x8aland", b"a\nb", b"a\tb"])
def test_names_that_cannot_be_classes_are_refused_when_the_data_is_opened(name: bytes, tmp_path: Path) -> None:
    root = write(classes(tmp_path, "train"), f"train/{name.decode(errors='surrogateescape')}/1.jpg")
    assert message(root).startswith(f"{root}/train: the class '{str(name)[2:-1]}' ")


def test_very_many_classes_make_short_messages(tmp_path: Path) -> None:
    root = write(tmp_path, *(f"train/class {number}/1.jpg" for number in range(300)), "test/x/1.jpg", "test/y/1.jpg")
    assert len(message(root)) < 500 + len(str(root))
