"""Block `media-profile`: what the result must be able to do."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field

from tidegate.model import Order, ProfileName, Quality


class MediaProfile(Block):
    """A named pair of profile and quality, so that a team decides once."""

    _block_type_name = "Media Profile"
    _block_type_slug = "media-profile"
    _description = "Profile and quality of the result."

    profile: ProfileName = Field(default=ProfileName.UNIVERSAL, description="Where the result must play.")
    quality: Quality = Field(default=Quality.AUTO, description="The rung that is asked for.")

    def order(self) -> Order:
        """The engine's order."""
        return Order(profile=self.profile, quality=self.quality)
