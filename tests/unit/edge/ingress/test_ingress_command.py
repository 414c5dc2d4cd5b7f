"""What the door's command takes, and what it says of what it does not."""

from __future__ import annotations

import pytest

from netplane.edge.ingress import main
from netplane.lib.cli import UserError


def test_a_door_is_published_by_address_or_name_and_by_nothing_else() -> None:
    found = [main._published(one) for one in ("203.0.113.10", "2001:DB8:0::1", "Door.example.com")]
    assert found == ["203.0.113.10", "2001:db8::1", "door.example.com"]
    for wrong in ("", "door example", "203.0.113.10:80", "*.example.com"):
        with pytest.raises(UserError, match=r"--publish-address .*: it is neither an IP address nor a DNS name"):
            main._published(wrong)
