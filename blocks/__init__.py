"""Stored configuration and secrets for the Prefect UI; register them with `prefect block register -m blocks`."""

from blocks.profile import MediaProfile
from blocks.source import MediaSource
from blocks.store import MediaStore
from blocks.toolchain import MediaToolchain

__all__ = ["MediaProfile", "MediaSource", "MediaStore", "MediaToolchain"]
