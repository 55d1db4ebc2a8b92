"""Which proxy the environment names for a link (`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`).

The pool, the httpx transport and the proxy for tools ask here, so that all three agree. It reads the environment only.
"""

from __future__ import annotations

import contextlib
import urllib.request
from urllib.parse import urlsplit


def proxy_for(url: str) -> str | None:
    """The proxy's own link; None: the origin is connected to directly."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy:
        return None
    with contextlib.suppress(OSError, UnicodeError):
        if urllib.request.proxy_bypass(parts.hostname or ""):
            return None
    return proxy if "://" in proxy else f"http://{proxy}"
