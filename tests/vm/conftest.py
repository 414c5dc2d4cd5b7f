"""What the tests of one machine share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.proxy_process import Nursery, nursery


@pytest.fixture(scope="session")
def proxy_nursery() -> Iterator[Nursery]:
    """What starts proxies quickly; it takes ten seconds here to load one."""
    with nursery() as made:
        yield made
