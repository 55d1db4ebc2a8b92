"""Who gets into a Dask cluster, told from its address."""

from __future__ import annotations

import pytest

from tidegate.stages.cluster import is_far_and_open, who_gets_in

NETWORK, MACHINE = "everybody in its network", "every user of this machine"


@pytest.mark.parametrize(
    ("address", "who"),
    [
        ("tcp://scheduler:8786", NETWORK),
        ("scheduler:8786", NETWORK),
        ("192.0.2.7:8786", NETWORK),
        ("tcp://[2001:db8::1]:8786", NETWORK),
        ("ws://scheduler:8786", NETWORK),
        ("ucx://scheduler:8786", NETWORK),
        ("tcp://127.0.0.1.example.org:8786", NETWORK),
        ("tcp://0.0.0.0:8786", NETWORK),
        ("tcp://127.0.0.1:8786", MACHINE),
        ("localhost:8786", MACHINE),
        ("tcp://[::1]:8786", MACHINE),
        ("tls://scheduler:8786", None),
        ("TLS://scheduler:8786", None),
        ("wss://scheduler:8786", None),
        ("inproc://10.0.0.1/1/1", None),
    ],
)
def test_a_scheduler_lets_in(address: str, who: str | None) -> None:
    assert who_gets_in(address) == who
    assert is_far_and_open(address) is (who == NETWORK)
