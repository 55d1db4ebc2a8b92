"""How bytes travel: lines to origins, kept while they are good.

Everything above asks a `Pool` for a `Line` and knows nothing of `sockets` or of httpx (`through_httpx`). `dial` makes
every connection, and judges the address first; `environment` names the operator's own proxy. A line holds no state that
a crash could lose.
"""

from __future__ import annotations

from tidegate.transfer.transport.base import Line, Reply
from tidegate.transfer.transport.pool import Pool, pool_of

__all__ = ["Line", "Pool", "Reply", "pool_of"]
