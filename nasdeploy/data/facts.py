"""What is found out about image files by looking into each once: a digest of the bytes, and what is wrong with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nasdeploy.data.decode import UnreadableImage, examined, looks_whole, undecodable
from nasdeploy.data.images import Indices
from nasdeploy.data.pillow import EIGHT_BITS, Header, too_large
from nasdeploy.data.settings import Decoding

DIGEST_BYTES = 16
"""Of SHA-256, the first: enough to tell any number of images apart."""
_READ_AT_ONCE = 1 << 20

Digests = npt.NDArray[np.uint8]
Records = npt.NDArray[np.void]

RECORD = np.dtype([("read", "?"), ("digest", "u1", DIGEST_BYTES), ("width", "i8"), ("height", "i8"), ("depth", "u1")])
"""Facts of one image as they are kept; one more is a field more here and in `Look`. `read`: the digest is known."""


class Look(NamedTuple):
    """What one look into an image file found out."""

    digest: bytes
    """Empty where its bytes were not read."""
    defect: str = ""
    """Why it cannot be read as an image; empty if nothing speaks against it."""
    lasts: bool = True
    """Whether the file would say the same again; not if the disk failed."""
    header: Header = Header(0, 0, EIGHT_BITS)
    """What its header says; of nothing where it cannot be read."""


@dataclass(frozen=True)
class Facts:
    """Facts of N image files: `names` below the folder of the data, `sizes` `[N]` in bytes, `records` `[N]` of
    `RECORD`, and defects by place."""

    names: Sequence[str]
    sizes: Indices
    records: Records
    defects: Mapping[int, str]

    def digests(self, places: Indices) -> Digests | None:
        """Of the bytes of some images `[len(places), DIGEST_BYTES]`; None unless all of these are known."""
        found = self.records[places]
        return found["digest"] if found["read"].all() else None

    def unreadable(self, decoding: Decoding) -> Mapping[int, str]:
        """Why images cannot be read, by place: their defects, and what `decoding` does not allow."""
        return dict(sorted((unfit(self.records, decoding) | dict(self.defects)).items()))


def unfit(records: Records, decoding: Decoding) -> dict[int, str]:
    """Why images with these facts `[N]` cannot be decoded so, by place: for their size or depth."""
    found = {}
    large = records["width"] * records["height"] > decoding.max_pixels
    for place in np.flatnonzero(large | (records["depth"] != EIGHT_BITS)).tolist():
        width, height, depth = (int(records[name][place]) for name in Header._fields)
        problem = too_large(width, height, decoding.max_pixels) or undecodable(depth, decoding)
        if problem:
            found[place] = problem
    return found


def look_at(path: Path, read: bool) -> Look:
    """What a file says about itself; its whole content is only read if `read`."""
    try:
        with path.open("rb", buffering=0) as file:
            digest, is_whole = _digest(file) if read else b"", looks_whole(file)
    except OSError as error:
        return Look(b"", error.strerror or str(error), lasts=False)
    try:
        return Look(digest, header=examined(path, is_whole))
    except UnreadableImage as error:
        return Look(digest, error.reason)


def _digest(file: IO[bytes]) -> bytes:
    summed = sha256()
    while content := file.read(_READ_AT_ONCE):
        summed.update(content)
    return summed.digest()[:DIGEST_BYTES]


def records_of(looks: Sequence[Look]) -> Records:
    """Looks as the records that are kept, `[N]`."""
    records: npt.NDArray[Any] = np.zeros(len(looks), dtype=RECORD)
    records["read"] = [bool(look.digest) for look in looks]
    digests = b"".join(look.digest or bytes(DIGEST_BYTES) for look in looks)
    records["digest"] = np.frombuffer(digests, dtype=np.uint8).reshape(len(looks), DIGEST_BYTES)
    for number, name in enumerate(Header._fields):
        records[name] = [look.header[number] for look in looks]
    return records
