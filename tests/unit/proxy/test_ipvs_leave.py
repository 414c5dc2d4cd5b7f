"""Who on this node still speaks from an address that is to go, as the kernel lists its sockets."""

from __future__ import annotations

import pytest

from netplane.model import address
from netplane_proxy.run.ipvs import leave


@pytest.mark.parametrize(
    ("listed", "meant"),
    [
        ("0100600A", "10.96.0.1"),
        ("000000FD960000000000000001000000", "fd00:0:0:96::1"),
        ("0000000000000000FFFF00000100600A", "10.96.0.1"),  # IPv4 by a socket of IPv6
    ],
)
def test_a_listed_address_is_read_in_the_machines_order(listed: str, meant: str) -> None:
    assert leave._read(listed) == address.parse(meant)
