"""Kinds of search spaces: each is a class of settings that builds its space."""

from abc import abstractmethod
from typing import Literal

from pydantic import Field, PrivateAttr

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import Settings
from nasdeploy.core.space import SearchSpace


class SpaceSettings(Settings):
    """The settings of one kind of search space; a kind subclasses it and gives `kind` its name as the only value."""

    kind: str
    """The kind of the space, which decides what other keys there are."""
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    """The name of the space, which its latency tables have too."""

    @abstractmethod
    def build(self, output_size: int) -> SearchSpace:
        """Return the space whose networks have outputs of the size that the task's data ask for.

        For classification that is the number of classes. Raises `UserError` for settings that contradict each other.
        """


class GivenSpace(SpaceSettings):
    """A space that exists as a Python object only: a recipe can say which one it was, and cannot build it.

    Settings that were read from a file lack the object: whoever reads them passes it once more.
    """

    kind: Literal["python"] = "python"
    name: str
    output_size: int
    """The size of the outputs of the networks."""
    digest: str
    """The digest of choices, slots and blocks."""
    _space: SearchSpace | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, space: SearchSpace) -> "GivenSpace":
        """Return the settings that stand for `space`."""
        given = cls(name=space.name, output_size=space.output_size, digest=space.digest)
        given._space = space
        return given

    def build(self, output_size: int) -> SearchSpace:
        """Return the object; raises `UserError` if there is none, or if it has another size of output."""
        if self._space is None:
            raise UserError(
                f"space {self.name} ({self.digest}) is a Python object and in no file; pass it from Python once more"
            )
        if self.output_size != output_size:
            raise UserError(f"space {self.name} has outputs of size {self.output_size}, the data ask for {output_size}")
        return self._space
