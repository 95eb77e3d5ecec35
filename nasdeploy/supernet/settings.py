"""How extracted networks are recalibrated. Torch-free."""

from pydantic import Field

from nasdeploy.core.settings import Settings


class RecalibrationSettings(Settings):
    """Training images for batch-norm recalibration (AlphaNet: 64 batches of 256, 32 batches during search)."""

    batch_size: int = Field(default=256, ge=2, le=65536)
    batches: int = Field(default=64, ge=1, le=10000)
    search_batches: int = Field(default=32, ge=1, le=10000)
