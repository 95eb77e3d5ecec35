"""What can go wrong, and the exit code that each kind ends in.

Every error is one line that says what is wrong, where, and what to do.
"""


class NasdeployError(Exception):
    """Anything that nasdeploy itself reports; the command line prints it as one line and exits with `exit_code`."""

    exit_code = 1


class UserError(NasdeployError):
    """A mistake in what was asked for: a wrong path, key, value, file."""

    exit_code = 2


class InfeasibleBudget(NasdeployError):
    """A budget that no network of the space can meet."""

    exit_code = 3


class CheckFailed(NasdeployError):
    """An exported model that disagrees with the network that it was made from, or a table with its device."""

    exit_code = 4


class Interrupted(NasdeployError):
    """Stopped from outside (Ctrl-C); what was finished is kept and the same command resumes."""

    exit_code = 130


class Terminated(NasdeployError):
    """Asked to stop by the system (SIGTERM), as schedulers do; everything is saved and the same command resumes."""

    exit_code = 75


_LONGEST = 300
_MARK = " ... "


def one_line(error: object) -> str:
    """Return what a library's exception says, as it goes into a message: of a long one the beginning and the end."""
    text = " ".join(str(error).split())
    half = (_LONGEST - len(_MARK)) // 2
    return text if len(text) <= _LONGEST else f"{text[:half]}{_MARK}{text[-half:]}"
