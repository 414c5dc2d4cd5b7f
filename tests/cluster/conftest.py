"""One lab for the whole run: three nodes, both IP families; gone again at the end, whatever happened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import NETPLANE, Lab, run

NAME = "ci"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give whoever comes first the time that the lab takes on a machine that others use."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    run(NETPLANE, "lab", "down", f"--name={NAME}", check=False)
    try:
        run(NETPLANE, "lab", "up", f"--name={NAME}", "--ip-family=dual", "--api-port=16443", limit=240)
        yield Lab(NAME)
    finally:
        run(NETPLANE, "lab", "down", f"--name={NAME}", limit=110)


@pytest.fixture
def clean(lab: Lab) -> Iterator[Lab]:
    """The lab with an empty default namespace, before and after."""
    yield lab
    kinds = "deployments,daemonsets,services,configmaps,pods"
    lab.kubectl(
        "delete",
        kinds,
        "-l",
        "kubernetes.io/metadata.name!=default,component!=apiserver",
        "--wait=false",
        "--grace-period=1",
    )
