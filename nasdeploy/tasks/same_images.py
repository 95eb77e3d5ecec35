"""The images of a run: those that it was begun with, for what they were for then.

Otherwise labels would mean something else, and images that taught would be tested on.
"""

from collections.abc import Iterable

from nasdeploy.core.errors import UserError
from nasdeploy.data.images import ImageSets
from nasdeploy.data.inventory import OpenedData
from nasdeploy.data.recorded_split import changes, load_split
from nasdeploy.data.settings import DataSettings
from nasdeploy.data.split import sets_of, split_sets
from nasdeploy.store.run import Run


def sets_of_run(run: Run, settings: DataSettings, seed: int, data: OpenedData) -> ImageSets:
    """Opened data, split as it was when the run was begun; raises `UserError` unless it is the same."""
    learned = run.manifest.classes
    if data.classes != learned:
        missing, new = (sorted(set(a) - set(b)) for a, b in ((learned, data.classes), (data.classes, learned)))
        differing = [f"{word} {_some(names)}" for word, names in (("without", missing), ("with", new)) if names]
        if not differing:
            # What is not ASCII sorted otherwise when names were kept as the file system wrote them.
            raise UserError(
                f"data: the classes have another order than when {run.path} was begun, so that labels would mean "
                "something else; train another run, or go on with the version of nasdeploy that began it"
            )
        raise UserError(
            f"data: the classes are not those that {run.path} learned ({', '.join(differing)}); "
            "restore the data that it was trained on"
        )
    return _split_anew(run, settings, seed, data) if run.manifest.data is None else _split_as_then(run, data)


def _split_as_then(run: Run, data: OpenedData) -> ImageSets:
    assert run.manifest.data is not None
    known = load_split(run.split, len(data.classes), run.manifest.data)
    sets = sets_of(data, known)
    if sets is None:
        raise UserError(
            f"data: these are not the images that {run.path} was begun with, {changes(known, data.inventory)}; restore "
            "them, give the folder that holds them with `data`, or train another run"
        )
    return sets


def _split_anew(run: Run, settings: DataSettings, seed: int, data: OpenedData) -> ImageSets:
    """Return the sets of a run of an earlier version, which knows the names and labels of its training images at
    most."""
    sets, images = split_sets(data, settings, seed), run.manifest.images
    if images is not None and images != sets.fingerprint:
        raise UserError(
            f"data: the training images are not those that {run.path} was begun with ({sets.fingerprint}, not {images} "
            "as then), so that some of those it learned would be tested on; restore them, or train another run"
        )
    return sets


def _some(names: Iterable[str]) -> str:
    """Return the first of some names, and how many more there are."""
    first, *more = names
    return f"{first} and {len(more)} more" if more else first
