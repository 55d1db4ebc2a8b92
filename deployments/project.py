"""prefect.yaml, read and checked against Prefect's own models.

Prefect ignores a key that it does not know without a word: a misspelt `schedules` is a deployment that never runs.
`deployments/register.py` refuses such a file before it tells a server anything, and a test checks ours.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml  # type: ignore[import-untyped]
from prefect import Flow
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.cli.deploy._schedules import _schedule_config_to_deployment_schedule
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.workers.base import BaseWorker
from prefect.workers.process import ProcessWorker
from prefect_docker.worker import DockerWorker  # type: ignore[import-untyped]
from pydantic import BaseModel, ValidationError

from flows.site import DOCKER_POOL, POOL

POOLS: dict[str, type[BaseWorker[Any, Any, Any]]] = {POOL: ProcessWorker, DOCKER_POOL: DockerWorker}
"""The work pools that we name, and the workers that take from them."""


def place() -> Path:
    """prefect.yaml: beside our packages in a checkout, among them where we are installed from a wheel."""
    here = Path(__file__).resolve()
    beside, inside = here.parents[1] / "prefect.yaml", here.with_name("prefect.yaml")
    return beside if beside.exists() else inside


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def complaints(project: Mapping[str, Any]) -> list[str]:
    """What Prefect would ignore or refuse, each with where it stands."""
    found = [*_unknown_keys(project, PrefectYamlModel, ""), *_complaints_of_models(project)]
    for deployment in project.get("deployments") or []:
        found += [f"{deployment.get('name')}: {complaint}" for complaint in _of_deployment(deployment)]
    return found


def _complaints_of_models(project: Mapping[str, Any]) -> list[str]:
    """What Prefect's models do not accept: the first complaint about each key, of which a union makes many."""
    found: dict[str, str] = {}
    try:
        PrefectYamlModel.model_validate(project)
    except ValidationError as error:
        for complaint in error.errors():
            found.setdefault(".".join(map(str, complaint["loc"][:3])), complaint["msg"])
    return [f"{where}: {message}" for where, message in found.items()]


def _unknown_keys(data: Any, model: type[BaseModel], where: str) -> Iterator[str]:
    if not isinstance(data, Mapping):
        return
    hints = get_type_hints(model)
    known = {name: hints[name] for name in model.model_fields}
    known |= {field.alias: hints[name] for name, field in model.model_fields.items() if field.alias}
    for key, value in data.items():
        if key not in known:
            yield f"{where}{key}: Prefect does not know this key"
            continue
        inner = _first_model(known[key])
        for part in value if isinstance(value, list) else [value]:
            if inner is not None:
                yield from _unknown_keys(part, inner, f"{where}{key}.")


def _first_model(annotation: Any) -> type[BaseModel] | None:
    """The model inside Optional, List and Union: of several ones the first is what the file may say."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, list):
        return next((model for part in get_args(annotation) if (model := _first_model(part))), None)
    return None


def _of_deployment(deployment: Mapping[str, Any]) -> Iterator[str]:
    try:
        flow = _flow(str(deployment.get("entrypoint")))
    except (ImportError, AttributeError, TypeError) as error:
        yield f"entrypoint: {error}"
    else:
        schedules = deployment.get("schedules") or []
        for given in (deployment, *schedules):
            for name in set(given.get("parameters") or {}) - set(flow.parameters.properties):
                yield f"parameters: {flow.name} has no {name}"
    yield from _of_pool(deployment.get("work_pool") or {})
    yield from _of_schedules(deployment.get("schedules") or [])
    yield from _of_limit(deployment.get("concurrency_limit"))


def _flow(entrypoint: str) -> Flow[..., Any]:
    module, _, name = entrypoint.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    if not isinstance(found, Flow):
        raise TypeError(f"{entrypoint} is no flow")
    return found


def _of_pool(pool: Mapping[str, Any]) -> Iterator[str]:
    worker = POOLS.get(str(pool.get("name")))
    if worker is None:
        yield f"work_pool.name: {pool.get('name')} is none of {', '.join(POOLS)}"
        return
    known = worker.get_default_base_job_template()["variables"]["properties"]
    for name in set(pool.get("job_variables") or {}) - set(known):
        yield f"work_pool.job_variables: a {worker.type} worker does not know {name}"


def _of_schedules(schedules: list[dict[str, Any]]) -> Iterator[str]:
    for schedule in schedules:
        try:
            _schedule_config_to_deployment_schedule(schedule)
        except ValueError as error:
            yield f"schedules: {error}"
        if not schedule.get("slug"):
            yield "schedules: one without a slug is told from others by nothing"


def _of_limit(limit: Any) -> Iterator[str]:
    strategies = [strategy.value for strategy in ConcurrencyLimitStrategy]
    if isinstance(limit, Mapping) and limit.get("collision_strategy") not in strategies:
        yield f"concurrency_limit.collision_strategy: {limit.get('collision_strategy')} is none of {strategies}"
