"""`python -m deployments.register`: everything a Prefect server is told about us.

Registers the blocks, creates the work pools, deploys all of prefect.yaml and creates or updates the automation that
notices dead runs. `make serve` runs it whenever it starts; it can be run again at any time, against any server that
`PREFECT_API_URL` names, and after a crash it is simply run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prefect.cli import app
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.workers.base import BaseWorker

import blocks
from deployments import project
from flows.access import LOOPBACK
from flows.safety import HEARTBEAT_SECONDS, HEARTBEATS_MISSED
from flows.site import AUTOMATION
from tidegate.durable.home import Home
from tidegate.settings import Settings

IMAGE_USER = "10001:10001"
"""Of the image in docs/deploy.md."""


@dataclass(frozen=True)
class SwitchedOff:
    """What a person has switched off by hand: `prefect deploy` switches all of it on again."""

    deployments: frozenset[str]
    schedules: frozenset[tuple[str, str]]
    """Deployment and slug."""


async def register() -> SwitchedOff:
    """All but the deployments, on the server that Prefect is configured for; gives what was switched off there."""
    async with get_client() as client:
        for name in blocks.__all__:
            await getattr(blocks, name).register_type_and_schema(client=client)
        for name, worker in project.POOLS.items():
            await _pool(client, name, worker)
        await _automation(client)
        return await _read_switched_off(client)


async def switch_off(off: SwitchedOff) -> None:
    """Switch it off again."""
    async with get_client() as client:
        for deployment in await client.read_deployments():
            if deployment.name in off.deployments:
                await client.pause_deployment(deployment.id)
            for schedule in deployment.schedules:
                if (deployment.name, schedule.slug) in off.schedules:
                    await client.update_deployment_schedule(deployment.id, schedule.id, active=False)


async def _read_switched_off(client: PrefectClient) -> SwitchedOff:
    present = await client.read_deployments()
    return SwitchedOff(
        frozenset(deployment.name for deployment in present if deployment.paused),
        frozenset(
            (deployment.name, schedule.slug or "")
            for deployment in present
            for schedule in deployment.schedules
            if not schedule.active
        ),
    )


async def _pool(client: PrefectClient, name: str, worker: type[BaseWorker[Any, Any, Any]]) -> None:
    """The pool as it is, or a new one. What a person has changed in it stays."""
    template = worker.get_default_base_job_template()
    try:
        pool = await client.read_work_pool(name)
    except ObjectNotFound:
        await client.create_work_pool(WorkPoolCreate(name=name, type=worker.type, base_job_template=template))
        return
    if not pool.base_job_template:  # created by somebody else without one: `prefect deploy` would refuse job variables
        await client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))


def zombie_automation() -> AutomationCore:
    """After a heartbeat, another event about the same run in time, or the run has crashed."""
    return AutomationCore(
        name=AUTOMATION,
        description="Sent by flows every 30 s. Prefect acts on their absence only through an automation.",
        enabled=True,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=HEARTBEAT_SECONDS * HEARTBEATS_MISSED),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="No heartbeat: the run's process is gone.")],
    )


async def _automation(client: PrefectClient) -> None:
    """Create it, or bring it up to date; of several with its name, the first one stays."""
    wanted = zombie_automation()
    present: list[Automation] = await client.read_automations_by_name(AUTOMATION)
    if not present:
        await client.create_automation(wanted)
        return
    first, *others = present
    # Somebody may have switched it off on purpose; that stays.
    await client.update_automation(first.id, wanted.model_copy(update={"enabled": first.enabled}))
    for other in others:
        await client.delete_automation(other.id)


def containers(home: Home, api_url: str) -> dict[str, str]:
    """What prefect.yaml asks about containers: beside a server on this host they share its home, as its own user; for
    a server elsewhere they have volumes of their own, as the image's user."""
    if urlsplit(api_url).hostname not in LOOPBACK:
        return {
            "TIDEGATE_CONTAINER_HOME": "tidegate",
            "TIDEGATE_CONTAINER_OUTPUT": "tidegate-output",
            "TIDEGATE_CONTAINER_USER": IMAGE_USER,
        }
    return {
        "TIDEGATE_CONTAINER_HOME": str(home.root.absolute()),
        "TIDEGATE_CONTAINER_OUTPUT": str(home.outputs(Path(), Settings.load().store.output).absolute()),
        "TIDEGATE_CONTAINER_USER": f"{os.geteuid()}:{os.getegid()}",
    }


def tell_containers() -> None:
    """Set what nobody has set, and make the folders: the engine would make them as root's."""
    home, api_url = Home(Settings.load().store.home), PREFECT_API_URL.value() or ""
    for name, value in containers(home, api_url).items():
        os.environ.setdefault(name, value)
    home.make()
    output = Path(os.environ["TIDEGATE_CONTAINER_OUTPUT"])
    if output.is_absolute():
        output.mkdir(parents=True, exist_ok=True)


def deploy(path: Path) -> None:
    """All deployments of prefect.yaml, by Prefect's own command.

    Raises:
        SystemExit: it refused; it has said why.
    """
    os.chdir(path.parent)
    sys.argv = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
    try:
        app()
    except SystemExit as ended:
        if ended.code:
            raise


def main() -> int:
    path = project.place()
    complaints = project.complaints(project.load(path))
    if complaints:
        sys.stderr.write("\n".join([f"{path} is not right:", *complaints]) + "\n")
        return 1
    tell_containers()
    off = asyncio.run(register())
    deploy(path)
    asyncio.run(switch_off(off))
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
