"""Block `media-store`: where scratch, assets and results lie."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from prefect.blocks.core import Block
from pydantic import Field

from tidegate.settings import StoreSettings


class MediaStore(Block):
    """The folders of one Tidegate host."""

    _block_type_name = "Media Store"
    _block_type_slug = "media-store"
    _description = "Where Tidegate keeps scratch files, assets and stage results."

    home: Path = Field(description="Folder for scratch, assets, results and secrets.")
    unvalidated_trust_hours: float = Field(
        default=24.0, ge=0, description="How long a checkpoint of a source without ETag and Last-Modified is believed."
    )

    def settings(self) -> StoreSettings:
        """The engine's store settings."""
        return StoreSettings(home=self.home, unvalidated_trust=timedelta(hours=self.unvalidated_trust_hours))
