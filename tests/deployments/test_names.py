"""Everybody means the same parts by the same names."""

from __future__ import annotations

from deployments import project
from flows import doctor, site


def test_doctor_looks_for_what_is_made() -> None:
    assert (doctor.POOL, doctor.AUTOMATION) == (site.POOL, site.AUTOMATION)


def test_prefect_yaml_uses_every_pool_that_is_made() -> None:
    told = project.load(project.place())
    assert {deployment["work_pool"]["name"] for deployment in told["deployments"]} == set(project.POOLS)
