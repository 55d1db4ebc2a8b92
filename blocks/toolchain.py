"""Block `media-toolchain`: which external tools to use."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field

from tidegate.settings import ToolSettings


class MediaToolchain(Block):
    """The tools of one kind of host."""

    _block_type_name = "Media Toolchain"
    _block_type_slug = "media-toolchain"
    _description = "Which ffmpeg and TwitchDownloaderCLI Tidegate uses, and with how many threads."

    ffmpeg: str | None = Field(default=None, description="Path of ffmpeg; empty: PATH, else the bundled one.")
    threads: int | None = Field(default=None, ge=1, description="Encoder threads; empty: all cores, at most 8.")
    twitch_downloader: str | None = Field(default=None, description="Path of TwitchDownloaderCLI; empty: PATH.")

    def settings(self) -> ToolSettings:
        """The engine's tool settings."""
        return ToolSettings(ffmpeg=self.ffmpeg, threads=self.threads, twitch_downloader=self.twitch_downloader)
