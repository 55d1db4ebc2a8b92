"""What a run that a worker starts may read and where it may publish: with server, worker and deployments as
`make serve` has them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clips import clip
from tests.support.site import Site, started_site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("rooted")
    (folder / "allowed").mkdir()
    with started_site(folder, {"TIDEGATE_ROOTS": str(folder / "allowed")}) as site:
        yield site


def test_no_run_of_a_batch_or_an_ingest_gets_out_of_its_roots(site: Site, clips: Path) -> None:
    allowed = site.home.parent / "allowed"
    film = Path(shutil.copy(clip(clips), allowed / "film.mp4"))
    private = Path(shutil.copy(clip(clips), site.home.parent / "private.mp4"))
    key = site.home / ".ssh" / "id_rsa"
    key.parent.mkdir()
    key.write_text("hunter2")
    (allowed / "link.mp4").symlink_to(private)
    bad = ["/etc/shadow", "/proc/self/environ", str(key), str(allowed / "link.mp4"), f"{allowed}/../private.mp4"]
    sources = [{"url": url} for url in (*bad, str(film))]
    batch = site.trigger("batch", {"sources": sources, "output_dir": str(allowed / "out"), "until": "publish"})
    out = [
        site.trigger("ingest", {"source": {"url": str(film)}, "output_dir": folder})
        for folder in (str(key.parent), "/etc/cron.d", "secrets")
    ]
    assert site.wait(batch, seconds=300)["message"] == f"{len(bad)} of {len(sources)} sources failed"
    told = {run["name"].removeprefix("ingest "): run["state"]["message"] for run in site.runs("ingest")}
    for url in bad:
        assert told[url].startswith("path_refused: A deployed run may not read"), told[url]
    assert told[str(film)].startswith("Published in")
    for run in out:
        assert site.wait(run)["message"].startswith("path_refused: A deployed run may not publish into")
    assert [path.name for path in key.parent.iterdir()] == ["id_rsa"]
    assert "hunter2" not in str(site.runs("ingest"))
