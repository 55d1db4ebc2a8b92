"""Whether a Dask scheduler lets in everybody who reaches it: who does, runs code as the user of its workers.

`tasks/dask.py` warns before it hands chunks to one, `flows/doctor_home.py` tells of it. Looks at addresses only.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

ENCRYPTED = ("tls", "wss")
"""Schemes whose scheduler asks for a certificate of its own authority."""
INSIDE = ("inproc",)
"""Nobody else reaches it."""


def who_gets_in(address: str) -> str | None:
    """Who can have code run by that cluster without being asked; None where a certificate is asked for."""
    scheme, host = _parts(address)
    if scheme in (*ENCRYPTED, *INSIDE):
        return None
    return "every user of this machine" if _is_loopback(host) else "everybody in its network"


def is_far_and_open(address: str) -> bool:
    """Whether it is reached over a network without a certificate."""
    scheme, host = _parts(address)
    return scheme not in (*ENCRYPTED, *INSIDE) and not _is_loopback(host)


def is_encrypted(address: str) -> bool:
    return _parts(address)[0] in ENCRYPTED


def _parts(address: str) -> tuple[str, str]:
    """Scheme and host; Dask takes an address without a scheme for tcp."""
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    return parts.scheme.lower(), (parts.hostname or "")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
