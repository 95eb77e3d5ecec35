"""What a bundle holds beside its models if it is asked for. Torch-free."""

from collections.abc import Iterable
from dataclasses import dataclass

from nasdeploy.core.errors import UserError
from nasdeploy.exporting.bundle.triton import SERVED


@dataclass(frozen=True)
class Extras:
    """What is asked for."""

    triton: bool = False
    """A model repository for Triton."""
    embedded: bool = False
    """ONNX files that preprocess by themselves."""

    def require(self, formats: Iterable[str]) -> None:
        """Raise `UserError` unless models of these formats can have them."""
        names = set(formats)
        if self.triton and not names & set(SERVED):
            raise UserError(
                f"--layout triton: Triton serves {', '.join(SERVED)}; add one of them with --format, or leave it out"
            )
        if self.embedded and "onnx" not in names:
            raise UserError("--embed-preprocessing is for format onnx; add it with --format, or leave it out")
