"""An image folder: train/CLASS/*, and val/ and test/ in the same form where there are any."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nasdeploy.data.decode import UnreadableImage
from nasdeploy.data.file_facts import facts_of
from nasdeploy.data.images import FileImages, as_indices
from nasdeploy.data.inventory import Identities
from nasdeploy.data.listing import list_folder
from nasdeploy.data.opened import OpenedData
from nasdeploy.data.settings import DataSettings
from nasdeploy.errors import UserError


def open_folder(settings: DataSettings) -> OpenedData:
    """The images below `settings.path`; raises `UserError` for a wrong form and, unless skipped, damaged files."""
    assert settings.path is not None  # DataSettings sees to it
    root = Path(settings.path).expanduser()
    listing = list_folder(root)
    labelled = {name: _labelled(part, listing.classes) for name, part in listing.parts.items()}
    files = [path for pairs in labelled.values() for path, _ in pairs]
    facts = facts_of(root, files)
    unreadable = facts.unreadable(settings.decoding)
    damaged = [UnreadableImage(files[place], reason) for place, reason in unreadable.items()]
    if damaged and settings.on_unreadable == "stop":
        raise _stop(damaged)
    parts, identities, first = {}, {}, 0
    for name, pairs in labelled.items():
        readable = [at for at in range(len(pairs)) if first + at not in unreadable]
        labels = [pairs[at][1] for at in readable]
        parts[name] = FileImages([pairs[at][0] for at in readable], labels, settings.decoding)
        identities[name] = Identities.of(facts, as_indices(readable) + first)
        first += len(pairs)
    notes = (*listing.notes, *(f"{error.path}: skipped ({error.reason})" for error in damaged))
    return OpenedData(listing.classes, parts, identities, notes)


def _labelled(part: Mapping[str, Sequence[Path]], classes: Sequence[str]) -> list[tuple[Path, int]]:
    """The files of a part with their labels, class by class."""
    return [(path, label) for label, name in enumerate(classes) for path in part.get(name, [])]


def _stop(damaged: Sequence[UnreadableImage]) -> UserError:
    first, others = damaged[0], len(damaged) - 1
    return UserError(f"{first}" + (f" ({others} more like it)" if others else ""))
