"""What the tests of one machine share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.proxy_process import Nursery, nursery
from tests.support.topology import Topology, topology


@pytest.fixture(scope="session")
def proxy_nursery() -> Iterator[Nursery]:
    """What starts proxies quickly; it takes ten seconds here to load one."""
    with nursery() as made:
        yield made


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    """A node that every test finds without a trace of another's; it takes seconds here to make one."""
    with topology(tmp_path_factory.mktemp("lab")) as made:
        yield made
