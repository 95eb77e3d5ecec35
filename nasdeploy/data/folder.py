"""An image folder: train/CLASS/*, and val/ and test/ in the same form where there are any."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nasdeploy.core.errors import UserError
from nasdeploy.data.decode import UnreadableImage
from nasdeploy.data.file_facts import facts_of
from nasdeploy.data.images import FileImages, as_indices
from nasdeploy.data.inventory import Identities
from nasdeploy.data.listing import FolderListing, list_folder
from nasdeploy.data.opened import OpenedData
from nasdeploy.data.settings import DataSettings, Decoding
from nasdeploy.data.unreadable import warn_of


def open_folder(settings: DataSettings) -> OpenedData:
    """The images below `settings.path`; raises `UserError` for a wrong form and, unless skipped, damaged files."""
    assert settings.path is not None  # DataSettings sees to it
    root = Path(settings.path).expanduser()
    data, damaged = read_folder(root, list_folder(root), settings.decoding)
    if damaged and settings.on_unreadable == "stop":
        raise stop(damaged)
    for error in damaged:
        warn_of(error.path, error.reason)
    return data


def read_folder(root: Path, listing: FolderListing, decoding: Decoding) -> tuple[OpenedData, list[UnreadableImage]]:
    """The images of a listing, but for damaged ones, which are the second result."""
    labelled = {name: _labelled(part, listing.classes) for name, part in listing.parts.items()}
    files = [path for pairs in labelled.values() for path, _ in pairs]
    facts = facts_of(root, files)
    unreadable = facts.unreadable(decoding)
    damaged = [UnreadableImage(files[place], reason) for place, reason in unreadable.items()]
    parts, identities, first = {}, {}, 0
    for name, pairs in labelled.items():
        readable = [at for at in range(len(pairs)) if first + at not in unreadable]
        labels = [pairs[at][1] for at in readable]
        parts[name] = FileImages([pairs[at][0] for at in readable], labels, decoding)
        parts[name].unreadable = len(pairs) - len(readable)
        identities[name] = Identities.of(facts, as_indices(readable) + first)
        first += len(pairs)
    return OpenedData(listing.classes, parts, identities, listing.notes), damaged


def _labelled(part: Mapping[str, Sequence[Path]], classes: Sequence[str]) -> list[tuple[Path, int]]:
    """The files of a part with their labels, class by class."""
    return [(path, label) for label, name in enumerate(classes) for path in part.get(name, [])]


def stop(damaged: Sequence[UnreadableImage]) -> UserError:
    """What training ends with where damaged images are not skipped: the first, and how many others there are."""
    first, others = damaged[0], len(damaged) - 1
    return UserError(f"{first}" + (f" ({others} more like it)" if others else ""))
