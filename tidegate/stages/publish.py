"""Stage `publish`: the folder that a person opens, swapped in whole.

`publish` prepares everything beside the target and then exchanges names, unless exactly that folder stands already;
`publish_failure` leaves the evidence of a run that failed and never touches an earlier success. After a crash the
target is the old folder or the new one, and the new one is taken as it is by the next run.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tidegate.durable.atomic import copy_file, put_in_place, sync_folder, temporary_sibling, write_public
from tidegate.durable.roots import Roots
from tidegate.durable.threads import check_cancellation, in_thread
from tidegate.errors import StoreUnavailable, from_os_error
from tidegate.events import Note
from tidegate.model import AnalysisResult, Asset, Identity, Outcome, PublishResult, RemuxResult, Track, fingerprint
from tidegate.report.document import document
from tidegate.report.failure import err_log
from tidegate.report.html import html_report
from tidegate.stages.analyze import CONTACT_SHEET, WAVEFORM
from tidegate.stages.seal import add_seal, track_of, verify_seal
from tidegate.stages.workbench import Workbench

RECIPE = 3
"""Raise it when the same inputs would give another folder: old checkpoints are then not believed."""

LONGEST_SLUG = 60
"""Characters; leaves room for suffixes on every file system."""

ERR_LOGS = "*.err.log"
"""Which files of a folder tell of a run that failed."""

_CAPTIONS = {CONTACT_SHEET: "Twelve moments, evenly spread", WAVEFORM: "Sound, from beginning to end"}


async def publish(bench: Workbench, outcome: Outcome, target: Path) -> PublishResult:
    """Make the folder `target` from an outcome that holds at least `remux` and `analysis`, or take it as it stands.

    The caller holds the lock of this work: what a killed run left beside the target is nobody's, and goes. A folder
    that such a run swapped in before it could say so is not made again: whoever has it open keeps it.

    Raises:
        Superseded, LeaseLost: another attempt has taken this work over; nothing was published.
        DiskFull, PermissionRefused, StoreUnavailable: the operating system refused; an earlier folder is untouched.
    """
    return await in_thread(_publish, bench, outcome, target, datetime.now(UTC))


def publish_failure(outcome: Outcome, target: Path, roots: Roots | None = None) -> Outcome:
    """Leave `<slug>.err.log` and, where no earlier success stands, a report. Blocking.

    Returns the outcome with their places. A folder that cannot be written is no second failure: the first one is what
    the person needs to read.
    """
    if outcome.failure is None:
        return outcome
    log = target / f"{slug_of(target)}.err.log"
    try:
        if roots is not None:
            roots.require_writable(target)
        write_public(log, _text(err_log(outcome.failure, outcome.source)))
        with_log = outcome.model_copy(update={"failure_log": log})
        if _holds_success(target):
            return with_log
        with_report = with_log.model_copy(update={"report_folder": target})
        page = html_report(with_report, {}, title=slug_of(target), now=outcome.failure.at)
        write_public(target / "report.html", _text(page))
        write_public(target / "report.json", _json(document(with_report)))
    except Exception:  # noqa: BLE001  # evidence is a courtesy; it must not hide the failure
        with contextlib.suppress(OSError):
            target.rmdir()  # an empty folder would tell of nothing
        return outcome.model_copy(update={"failure_log": log if log.exists() else None})
    return with_report


def folder_name(name: str, key: str) -> str:
    """`<slug>-<8 hex of the work key>`."""
    return f"{slug(name)}-{key[:8]}"


def slug(name: str) -> str:
    """A file name's stem in plain ASCII: safe in every shell, URL and file system."""
    stem = name.rpartition(".")[0] or name
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:LONGEST_SLUG].strip("-") or "media"


def slug_of(target: Path) -> str:
    """The slug in a published folder's name."""
    return target.name.rpartition("-")[0] or target.name


def folder_before_identity(source: str, profile: str, quality: str) -> str:
    """The folder of a run that failed before its source was identified; `source` is redacted."""
    name = unquote(urlsplit(source).path.rstrip("/").rpartition("/")[2]) or urlsplit(source).netloc
    return folder_name(name, fingerprint("unidentified", source, profile, quality))


def folder_of(identity: Identity, key: str) -> str:
    """The folder of a run that knows its source. `key` is the work key."""
    return folder_name(identity.name, key)


def _publish(bench: Workbench, outcome: Outcome, target: Path, now: datetime) -> PublishResult:
    assert outcome.remux is not None and outcome.analysis is not None  # noqa: S101
    prepared = temporary_sibling(target)
    inputs = _inputs(outcome.remux, outcome.analysis, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_away(_left_behind(target))
        standing = verify_seal(target / _meta_name(target), inputs)
        if standing is not None:
            return _adopt(bench, target, standing, now)
        bench.require_space(target.parent, outcome.remux.asset.size_bytes)
        prepared.mkdir()
        tracks = _fill(bench, outcome, outcome.remux, outcome.analysis, prepared, target, inputs, now)
        sync_folder(prepared)
        with bench.fence():
            bench.require_publishable(target)  # a link may stand in its way by now
            put_in_place(prepared, target)
        sync_folder(target.parent)
        _clear_away(_left_behind(target))
    except OSError as error:
        shutil.rmtree(prepared, ignore_errors=True)
        raise from_os_error(error, "publishing", target) from error
    except BaseException:
        shutil.rmtree(prepared, ignore_errors=True)
        raise
    return PublishResult(folder=target, tracks=tracks, recorded_at=now)


def _inputs(remux: RemuxResult, analysis: AnalysisResult, target: Path) -> str:
    """What the folder depends on. When a stage was run again, its report tells of another run."""
    made_from = (remux.model_dump(mode="json"), analysis.model_dump(mode="json"))
    return fingerprint("publish", RECIPE, str(target), *made_from)


def _adopt(bench: Workbench, target: Path, tracks: tuple[Track, ...], now: datetime) -> PublishResult:
    """The folder as it stands, without the log of a run that failed since: that failure is over."""
    with bench.fence():
        for log in target.glob(ERR_LOGS):
            log.unlink()
    sync_folder(target.parent)  # the run that swapped it in may have died before it could
    bench.observe(Note("publish: the folder stands already, as an earlier run made it"))
    return PublishResult(folder=target, tracks=tracks, recorded_at=now)


def _left_behind(target: Path) -> list[Path]:
    """What runs that were killed left beside the target. Where that is missing, a whole folder may be the earlier
    success, on its way aside: it stays until there is another."""
    folders = target.parent.glob(f".{target.name}.*.tmp")
    return [folder for folder in folders if target.exists() or not _holds_success(folder)]


def _clear_away(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _fill(
    bench: Workbench,
    outcome: Outcome,
    remux: RemuxResult,
    analysis: AnalysisResult,
    folder: Path,
    target: Path,
    inputs: str,
    now: datetime,
) -> tuple[Track, ...]:
    """Write every file of the folder; the media comes first, what seals it last."""
    slug_name = slug_of(target)
    media = f"{slug_name}{Path(remux.asset.main.name).suffix}"
    _copy(bench, remux.asset, remux.asset.main.name, folder / media)
    track = track_of(folder / media)
    if track.digest != remux.asset.main.digest:
        raise StoreUnavailable(f"The asset {remux.asset.address} is damaged; it was not published")
    beside = _copy_sidecars(bench, remux.asset, folder, slug_name)
    pictures = _pictures(bench, analysis, folder)
    published = PublishResult(folder=target, tracks=(track, *beside), recorded_at=now)
    final = outcome.model_copy(update={"status": "completed", "published": published})
    captions = {_CAPTIONS[path.name]: path for path in pictures}
    page, data, meta = folder / "report.html", folder / "report.json", folder / _meta_name(target)
    write_public(page, _text(html_report(final, captions, title=slug_name, now=now)))
    write_public(data, _json(document(final)))
    tracks = (track, *beside, *(track_of(path) for path in (*pictures, page, data)))
    write_public(meta, _json(add_seal(_meta(final, remux), inputs, tracks)))
    return (*tracks, track_of(meta))


def _copy_sidecars(bench: Workbench, asset: Asset, folder: Path, slug_name: str) -> list[Track]:
    """The sidecars, under the video's name: players find subtitles by it."""
    tracks = []
    for sidecar in asset.tracks[1:]:
        path = folder / f"{slug_name}.{sidecar.name}"
        _copy(bench, asset, sidecar.name, path)
        tracks.append(track_of(path))
        if tracks[-1].digest != sidecar.digest:
            raise StoreUnavailable(f"The asset {asset.address} is damaged; it was not published")
    return tracks


def _meta_name(target: Path) -> str:
    return f"{slug_of(target)}.meta.json"


def _pictures(bench: Workbench, analysis: AnalysisResult, folder: Path) -> list[Path]:
    if analysis.asset is None:
        return []
    for track in analysis.asset.tracks:
        _copy(bench, analysis.asset, track.name, folder / track.name)
    return [folder / track.name for track in analysis.asset.tracks]


def _copy(bench: Workbench, asset: Asset, name: str, target: Path) -> None:
    copy_file(bench.store.folder(asset) / name, target, check_cancellation)


def _meta(outcome: Outcome, remux: RemuxResult) -> dict[str, Any]:
    """For operators: how this file came to be."""
    return {
        "source": outcome.source,
        "identity": outcome.probe.identity.model_dump(mode="json") if outcome.probe else None,
        "decision": remux.decision.model_dump(mode="json"),
        "aim": remux.aim.model_dump(mode="json") if remux.aim else None,
        "ladder": [step.model_dump(mode="json") for step in remux.ladder],
        "verification": remux.verification.model_dump(mode="json"),
        "source_media": outcome.download.media.model_dump(mode="json") if outcome.download else None,
        "output_media": remux.media.model_dump(mode="json"),
        "tools": {"ffmpeg": remux.ffmpeg_version},
        "seconds": {name: record.seconds for name, record in outcome.stages.items()},
        "flow_run_id": outcome.flow_run_id,
    }


def _holds_success(target: Path) -> bool:
    try:
        return bool(json.loads((target / "report.json").read_text())["status"] == "completed")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _json(value: object) -> bytes:
    return _text(json.dumps(value, indent=2, ensure_ascii=False)) + b"\n"


def _text(text: str) -> bytes:
    """UTF-8; a byte of a file name that is none is shown escaped."""
    return text.encode(errors="backslashreplace")
