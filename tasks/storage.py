"""Where Prefect keeps what stages return: files in the home that are whole or not at all, and their owner's alone.

`tasks/policies.py` gives it to each stage's task. Prefect's own storage writes in place and as the umask says: a crash
leaves half a record there, and any user of the machine reads the other one. Here a crash leaves the old record or the
new one.
"""

from __future__ import annotations

from anyio import to_thread
from prefect.filesystems import LocalFileSystem

from tidegate.durable.atomic import write_atomic


class PrivateFiles(LocalFileSystem):
    """A folder of this host. Never saved on the server, which could not tell other hosts where it is."""

    _block_type_name = "Tidegate Private Files"
    _block_type_slug = "tidegate-private-files"

    async def awrite_path(self, path: str, content: bytes) -> str:
        return await to_thread.run_sync(self.write_path, path, content)

    def write_path(self, path: str, content: bytes) -> str:  # type: ignore[override]  # Prefect's own may be awaited
        """Write it; gives the path.

        Raises:
            ValueError: the path leads out of the folder.
            DiskFull, PermissionRefused, StoreUnavailable: the operating system refused.
        """
        place = self._resolve_path(path)
        write_atomic(place, content)
        return str(place)
