"""Block `media-source`: a link with its secrets, stored once on the server and named by flows."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from tidegate.model import Source
from tidegate.transfer.request import PathCheck, allow_any, check_headers_for, check_sha256, check_url


class MediaSource(Block):
    """A source whose link or headers are secret."""

    _block_type_name = "Media Source"
    _block_type_slug = "media-source"
    _description = "A link with its secrets: tokens in the URL, headers, cookies."

    url: SecretStr = Field(description="http(s):// link or file:// path of the media; may carry a token.")
    headers: dict[str, SecretStr] = Field(
        default_factory=dict, description="Request headers, sent to the link's own origin only."
    )
    sha256: str | None = Field(default=None, description="SHA-256 that the file must have, in hex.")

    def source(self, may_read: PathCheck = allow_any) -> Source:
        """The engine's source.

        Raises:
            BadInput, UnsupportedSource: link, headers or digest are not valid.
            PathRefused: it is a file, and this run may not read it.
        """
        url, digest = check_url(self.url.get_secret_value(), may_read), check_sha256(self.sha256)
        check_headers_for({name: value.get_secret_value() for name, value in self.headers.items()}, [url])
        return Source(url=SecretStr(url), headers=self.headers, sha256=f"sha256:{digest}" if digest else None)
