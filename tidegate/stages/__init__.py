"""The engine's public face: one coroutine per stage, usable with or without a server.

bench = Workbench(Settings.load())
identity, cost = await identify(bench, source)
"""

from tidegate.stages.analyze import analyze
from tidegate.stages.download import download
from tidegate.stages.probe import choose_rendition, identify, probe, work_key
from tidegate.stages.publish import publish, publish_failure
from tidegate.stages.remux import remux
from tidegate.stages.workbench import Workbench

__all__ = [
    "Workbench",
    "analyze",
    "choose_rendition",
    "download",
    "identify",
    "probe",
    "publish",
    "publish_failure",
    "remux",
    "work_key",
]
