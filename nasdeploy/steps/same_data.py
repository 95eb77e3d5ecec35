"""A run and its data have to agree, or labels would mean something else, and images that taught would be tested on."""

from collections.abc import Iterable

from nasdeploy.data.images import ImageSets
from nasdeploy.errors import UserError
from nasdeploy.store.run import Run


def require_same_data(run: Run, sets: ImageSets) -> None:
    """Raise `UserError` unless the data has the classes and the training images that the run was begun with."""
    learned = run.manifest.classes
    if sets.classes != learned:
        missing, new = (sorted(set(a) - set(b)) for a, b in ((learned, sets.classes), (sets.classes, learned)))
        changes = [f"{word} {_some(names)}" for word, names in (("without", missing), ("with", new)) if names]
        raise UserError(
            f"data: the classes are not those that {run.path} learned ({', '.join(changes) or 'in another order'}); "
            "restore the data that it was trained on"
        )
    images = run.manifest.images
    if images is not None and images != sets.fingerprint:
        raise UserError(
            f"data: the training images are not those that {run.path} was begun with ({sets.fingerprint}, not {images} "
            "as then), so that some of those it learned would be tested on; restore them, or train another run"
        )


def _some(names: Iterable[str]) -> str:
    """The first of some names, and how many more there are."""
    first, *more = names
    return f"{first} and {len(more)} more" if more else first
