"""A deployed run whose source is given a rest gives its place back, and comes again when the rest is over."""

from __future__ import annotations

import pytest

from tests.support.disaster import Fresh, Undisturbed, triggered
from tests.support.origin import Origin, Resource
from tests.support.site import Site

QUICK = {"TIDEGATE_GATE_FAILURES": "2", "TIDEGATE_GATE_OPEN_FOR": "30", "TIDEGATE_TRANSFER_BACKOFF_BASE": "0.1"}


@pytest.mark.slow
def test_it_is_scheduled_for_later_and_asks_nothing_before(site: Site, fresh: Fresh, straight: Undisturbed) -> None:
    story = "from-first: 503, 503, ok"
    with Origin({"film.mp4": Resource(fresh("copied"), story=story)}) as origin:
        opens = triggered(site, "opens", origin.url("film.mp4"), QUICK)
        assert "server_error" in opens.wait("FAILED")["message"], "whose own failures opened it ends with its own"
        rests = triggered(site, "rests", origin.url("film.mp4"), QUICK)
        rests.wait("SCHEDULED")
        site.wait(rests.id, ("RUNNING",), 60)
        asked = len(origin.requests)
        rests.wait("COMPLETED")
    states = site.states(rests.id)
    # The rest may be a moment longer than what was told of it; then it is given its place back once more.
    assert states.count("AwaitingRetry") == states.count("Running") - 1 >= 1, states
    assert asked == 2, "nothing was asked while it rested"
    assert rests.media() == straight.media("copied")
    assert list(rests.output.rglob("*.err.log")) == []
