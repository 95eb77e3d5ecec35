"""A split as a file in the run: NumPy arrays, since a million images have to be read in a moment."""

from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np

from nasdeploy.core.errors import UserError
from nasdeploy.data.cache import texts_as_bytes, texts_from_bytes
from nasdeploy.data.inventory import Identities, Inventory
from nasdeploy.data.split import Split
from nasdeploy.store.data_facts import DataFacts


def split_content(split: Split) -> bytes:
    """The file of a split: `classes`; for each image `paths` (UTF-8, with a zero byte between two), `labels`, `sizes`,
    `digests` (SHA-256, the first 16 bytes) and `uses` (indices into `nasdeploy.data.split.USES`)."""
    known, found = split.inventory, split.inventory.identities
    digests = {} if found.digests is None else {"digests": found.digests}
    content = BytesIO()
    np.savez(
        content,
        allow_pickle=False,
        classes=texts_as_bytes(known.classes),
        paths=texts_as_bytes(found.paths),
        labels=known.labels.astype(np.int32),
        sizes=found.sizes,
        uses=split.uses,
        **digests,
    )
    return content.getvalue()


def load_split(path: Path, classes: int, facts: DataFacts) -> Split:
    """The split in a file of a run with so many classes, which is that of `facts`; raises `UserError` otherwise."""
    remedy = "restore it from a copy of the run, or train anew with --restart"
    try:
        with np.load(path, allow_pickle=False) as stored:
            labels = stored["labels"].astype(np.int64)
            found = Identities(
                tuple(texts_from_bytes(stored["paths"], len(labels))),
                stored["sizes"],
                stored["digests"] if "digests" in stored.files else None,
            )
            names = tuple(texts_from_bytes(stored["classes"], classes))
            split = Split(Inventory(names, labels, found), stored["uses"])
            whole = split.digest == facts.digest
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); {remedy}") from None
    except (ValueError, KeyError, EOFError, IndexError, BadZipFile, ZlibError):
        whole = False
    if not whole:
        raise UserError(f"{path}: damaged, or of another run; {remedy}")
    return split
