"""The stores that the claims are made of: a file, and one real etcd member for all tests, a prefix for each."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import etcds, stores


@pytest.fixture(scope="session")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[etcds.Etcds]:
    """One etcd member."""
    with etcds.running(tmp_path_factory.mktemp("etcd") / "data") as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", "etcd"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> stores.Open:
    """What opens the store of one test."""
    if request.param == "sqlite":
        return functools.partial(stores.sqlite, tmp_path / "db")
    cluster: etcds.Etcds = request.getfixturevalue("member")
    return functools.partial(stores.etcd, cluster.addresses, f"/{uuid.uuid4().hex}")
