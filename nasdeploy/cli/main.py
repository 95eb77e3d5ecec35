"""The command `nasdeploy`: every error as one line on stderr, and its exit code."""

import errno
import io
import os
import sys
import warnings
from typing import TYPE_CHECKING, NoReturn, TextIO

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import Interrupted, NasdeployError, UserError, one_line
from nasdeploy.core.escaping import escaped

if TYPE_CHECKING:
    import typer


def main() -> None:
    """Console script; maps every expected error to one line on stderr and its exit code."""
    # PyTorch's threads that wait for each other sleep instead of spinning: as fast on a machine of one's own, and about
    # seven times as fast where another process wants a core too. It has to be said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    warnings.showwarning = _warn
    # What a terminal, a pipe or a code page lacks is escaped; nothing dies of it. On stderr Python does so itself.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _run()
    except NasdeployError as error:
        _stop(error)
    except KeyboardInterrupt:
        _stop(Interrupted("stopped; what was finished is kept, and the same command resumes"))
    except BrokenPipeError:
        # Whoever read the output has had enough, as `head` has.
        _forget_output()
        raise SystemExit(1) from None
    except MemoryError as error:
        _stop(UserError(f"not enough memory ({one_line(error)}); use smaller batches or images, or another machine"))
    except OSError as error:
        if error.strerror is None or error.errno in _FAULTS_OF_OURS:
            raise
        _forget_output()
        _stop(UserError(f"{error.filename}: {error.strerror}" if error.filename else error.strerror))


_FAULTS_OF_OURS = frozenset({errno.EBADF, errno.ECHILD, errno.EFAULT, errno.EINVAL, errno.ENOTTY, errno.ESPIPE})
"""All other errors of the system tell of a path, a disk, a limit or a network, which the user can see to."""


def _forget_output() -> None:
    """Keep Python from writing once more, when it ends, what the output refused, and from complaining then."""
    if sys.__stdout__ is not None and sys.stdout is sys.__stdout__:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())


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
    print(f"nasdeploy: warning: {escaped(typed(message))}", file=sys.stderr)


def _stop(error: NasdeployError) -> NoReturn:
    print(f"nasdeploy: {escaped(typed(error))}", file=sys.stderr)
    raise SystemExit(error.exit_code)
