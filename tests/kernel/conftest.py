"""These tests change a real kernel: without root they fail, they are not skipped."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def root() -> None:
    """Fail every test here when we are not root."""
    assert os.geteuid() == 0, "tests of the kernel need root"
