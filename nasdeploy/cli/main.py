"""The command `nasdeploy`: every error as one line on stderr, and its exit code."""

import os
import sys
import warnings
from typing import TYPE_CHECKING, NoReturn, TextIO

from nasdeploy.errors import Interrupted, NasdeployError, UserError

if TYPE_CHECKING:
    import typer


def main() -> None:
    """Console script; maps every expected error to one line on stderr and its exit code."""
    # PyTorch's threads that wait for each other sleep instead of spinning: as fast on a machine of one's own, and about
    # seven times as fast where another process wants a core too. It has to be said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    warnings.showwarning = _warn
    try:
        _run()
    except NasdeployError as error:
        _stop(error)
    except KeyboardInterrupt:
        _stop(Interrupted("stopped; what was finished is kept, and the same command resumes"))
    except BrokenPipeError:
        # Whoever read the output has had enough, as `head` has.
        raise SystemExit(1) from None
    except OSError as error:
        if error.strerror is None:
            raise
        _stop(NasdeployError(f"{error.filename}: {error.strerror}" if error.filename else error.strerror))


def _run() -> None:
    """The command that was typed, with Typer's own ways of ending turned into ours."""
    # Here, so that Ctrl-C is caught while the commands are imported too.
    import typer

    from nasdeploy.cli.app import app

    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        _misused(error)
    # What an Exit of Typer's holds, as after --help; Ctrl-C comes as 130, without a word.
    if code == Interrupted.exit_code:
        raise KeyboardInterrupt
    raise SystemExit(code or 0)


def _misused(error: "typer.TyperException") -> NoReturn:
    message, context = error.format_message(), getattr(error, "ctx", None)
    if "\n" in message:
        # A group of commands called without one: Typer answers with its help.
        print(message, file=sys.stderr)
        raise SystemExit(UserError.exit_code)
    see = f" (see '{context.command_path} --help')" if context else ""
    raise UserError(f"{message[:1].lower()}{message[1:].rstrip('.')}{see}") from None


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A library's warning in one line; which line of which file it comes from tells a user nothing."""
    print(f"nasdeploy: warning: {_one_line(message)}", file=sys.stderr)


def _stop(error: NasdeployError) -> NoReturn:
    print(f"nasdeploy: {_one_line(error)}", file=sys.stderr)
    raise SystemExit(error.exit_code)


def _one_line(message: object) -> str:
    """Line breaks, as in the name of a file, are shown as such."""
    return "\\n".join(str(message).splitlines())
