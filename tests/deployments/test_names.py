"""Everybody means the same parts by the same names."""

from __future__ import annotations

from deployments import project


def test_prefect_yaml_uses_every_pool_that_is_made() -> None:
    told = project.load(project.place())
    assert {deployment["work_pool"]["name"] for deployment in told["deployments"]} == set(project.POOLS)
