"""The architecture that a user means: a name, a digest, a JSON file or JSON itself."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError, suggestion
from nasdeploy.core.settings import read_json
from nasdeploy.core.space import SearchSpace

_DIGEST = re.compile(r"[0-9a-f]{4,12}")


def resolve_arch(text: str, space: SearchSpace, known: Iterable[Arch], option: str = "`arch`") -> Arch:
    """Return the architecture of `space` that `text` means: a name (or `smallest`, `largest`), a JSON file or JSON.

    A digest, or its beginning, is looked for among the named and the `known` ones. `option` is named in errors.

    Raises `UserError` for what is not found, not unique, no JSON, or outside the space.
    """
    if text.lstrip().startswith("{"):
        try:
            return space.arch(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{option}: not valid JSON ({error}); check quotes and brackets") from None
    names = {"smallest": space.smallest(), "largest": space.largest(), **space.named}
    if text in names:
        return names[text]
    if text.endswith(".json") or os.path.isfile(text):  # Unlike Path.is_file also for what can be no path.
        return _in_file(Path(text), space)
    candidates = {*names.values(), *known}
    found = [arch for arch in candidates if arch.digest.startswith(text)]
    if not _DIGEST.fullmatch(text) or not found:
        raise _unknown(option, text, space, names, len(candidates))
    if len(found) > 1:
        digests = ", ".join(sorted(arch.digest for arch in found)[:3])
        raise UserError(f"{option} {text}: the beginning of {len(found)} digests ({digests}, ...); give more digits")
    return found[0]


def _in_file(path: Path, space: SearchSpace) -> Arch:
    content = read_json(path)
    try:
        return space.arch(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _unknown(option: str, text: str, space: SearchSpace, names: Iterable[str], candidates: int) -> UserError:
    first = space.choices[0].name.partition(".")[0]
    return UserError(
        f'{option} {text}: not found; give a JSON file, JSON such as {{"{first}": ...}}, the digest (4 digits or '
        f"more) of one of {candidates} known networks, or a name{suggestion(text, names)}"
    )
