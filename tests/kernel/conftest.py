"""These tests change a real kernel: without root they fail, they are not skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.cni_nursery import Nursery, nursery


@pytest.fixture(scope="session", autouse=True)
def root() -> None:
    """Fail every test here when we are not root."""
    assert os.geteuid() == 0, "tests of the kernel need root"


@pytest.fixture(scope="session")
def cni_nursery() -> Iterator[Nursery]:
    """What starts CNI daemons quickly."""
    with nursery() as made:
        yield made
