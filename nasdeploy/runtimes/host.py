"""Where a device is: this machine, or a board that is reached over SSH. Standard library only."""

from dataclasses import dataclass
from urllib.parse import urlsplit

LOCAL = "local"
"""This machine."""


@dataclass(frozen=True)
class SshHost:
    """A board; what is None is left to the user's SSH configuration."""

    host: str
    user: str | None
    port: int | None


def parse_host(text: str) -> SshHost | None:
    """The host that `ssh://[user@]host[:port]` names, None for `local`; raises ValueError, in one line, for others."""
    if text == LOCAL:
        return None
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"'{text}' is no host ({error}); {_FORMS}") from None
    if parts.scheme != "ssh":
        what = f"is reached by '{parts.scheme}'" if parts.scheme else "does not say how it is reached"
        raise ValueError(f"'{text}' {what}; {_FORMS}")
    if parts.password is not None:
        raise ValueError(f"the host '{parts.hostname}' has a password beside it; leave it out and use an SSH key")
    if not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment or port == 0:
        raise ValueError(f"'{text}' is no host; {_FORMS}")
    if any(
        name.startswith("-") or not name.isprintable() or " " in name for name in (parts.hostname, parts.username or "")
    ):
        raise ValueError(f"'{text}' is no host; {_FORMS}")
    return SshHost(parts.hostname, parts.username, port)


_FORMS = "write local, or ssh://user@host, or ssh://user@host:port"
