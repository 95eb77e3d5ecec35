"""An image folder: train/CLASS/*, and val/ and test/ in the same form where there are any."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from nasdeploy.data.decode import UnreadableImage
from nasdeploy.data.file_facts import facts_of
from nasdeploy.data.images import FileImages, ImageSets
from nasdeploy.data.listing import list_folder
from nasdeploy.data.settings import DataSettings, Decoding
from nasdeploy.data.split import image_sets
from nasdeploy.errors import UserError


def open_folder(settings: DataSettings, seed: int) -> ImageSets:
    """The images below `settings.path`; raises `UserError` for a wrong form and, unless skipped, damaged files."""
    assert settings.path is not None  # DataSettings sees to it
    root = Path(settings.path).expanduser()
    listing = list_folder(root)
    files = [path for part in listing.parts.values() for images in part.values() for path in images]
    facts = facts_of(root, files)
    unreadable = facts.unreadable(settings.decoding)
    damaged = {files[place]: UnreadableImage(files[place], reason) for place, reason in unreadable.items()}
    if damaged and settings.on_unreadable == "stop":
        raise _stop(list(damaged.values()))
    notes = [*listing.notes, *(f"{path}: skipped ({error.reason})" for path, error in damaged.items())]
    decoding = settings.decoding
    parts = {name: _images(part, listing.classes, damaged.keys(), decoding) for name, part in listing.parts.items()}
    return image_sets(
        listing.classes, parts["train"], settings, seed, val=parts.get("val"), test=parts.get("test"), notes=notes
    )


def _stop(damaged: Sequence[UnreadableImage]) -> UserError:
    first, others = damaged[0], len(damaged) - 1
    return UserError(f"{first}" + (f" ({others} more like it)" if others else ""))


def _images(
    part: dict[str, list[Path]], classes: Sequence[str], damaged: Iterable[Path], decoding: Decoding
) -> FileImages:
    left_out = set(damaged)
    pairs = [(path, label) for label, name in enumerate(classes) for path in part.get(name, []) if path not in left_out]
    return FileImages([path for path, _ in pairs], [label for _, label in pairs], decoding)
