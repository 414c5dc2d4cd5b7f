"""What the server keeps on disk is the server's alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from netplane.controlplane.api import server
from netplane.lib.cli import UserError


def test_the_database_is_for_its_owner_alone(tmp_path: Path) -> None:
    with server.locked(tmp_path / "data"):
        assert (tmp_path / "data" / server.DATABASE).stat().st_mode & 0o777 == 0o600


def test_a_second_server_is_refused_by_name(tmp_path: Path) -> None:
    with server.locked(tmp_path), pytest.raises(UserError, match="another server uses"), server.locked(tmp_path):
        pass
