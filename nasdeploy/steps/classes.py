"""A run and its data have to agree on the classes, or labels would mean something else than they did in training."""

from nasdeploy.data.images import ImageSets
from nasdeploy.errors import UserError
from nasdeploy.store.run import Run


def require_classes(run: Run, sets: ImageSets) -> None:
    """Raise `UserError` unless the data has the classes that the run was begun with."""
    if sets.classes != run.manifest.classes:
        found, learned = ", ".join(sets.classes), ", ".join(run.manifest.classes)
        raise UserError(
            f"data: the classes are {found}, but {run.path} learned {learned}; restore the data that it was trained on"
        )
