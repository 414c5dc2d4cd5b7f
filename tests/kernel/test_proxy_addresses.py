"""NodePorts follow the node's addresses as soon as these change."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.kernel import netns
from netplane.model import address
from netplane_proxy.run.addresses import Addresses
from netplane_proxy.run.ipvs.host import LINK

NEW = address.parse("192.0.2.7")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "node")
    netns.create(path)
    yield path
    netns.remove_if_present(path)


def ip(place: str, *words: str) -> None:
    netns.run_in(place, lambda: subprocess.run(("ip", *words), check=True, timeout=20))


def following(place: str) -> Addresses:
    return netns.run_in(place, lambda: Addresses(are_followed=True))


async def test_an_address_that_comes_or_goes_is_heard_and_read(place: str) -> None:
    with contextlib.closing(following(place)) as found:
        for verb, has in (("add", True), ("del", False)):
            heard = asyncio.ensure_future(found.changed())
            await asyncio.sleep(0)
            assert not heard.done()
            ip(place, "address", verb, "192.0.2.7/32", "dev", "lo")
            await asyncio.wait_for(heard, 30)
            assert (NEW in found.read()) is has


async def test_what_came_before_anybody_waited_is_heard(place: str) -> None:
    with contextlib.closing(following(place)) as found:
        ip(place, "address", "add", "192.0.2.7/32", "dev", "lo")
        await asyncio.wait_for(found.changed(), 30)


async def test_addresses_that_stand_there_for_ipvs_alone_are_not_the_nodes(place: str) -> None:
    ip(place, "link", "add", LINK, "type", "bridge")
    with contextlib.closing(following(place)) as found:
        heard = asyncio.ensure_future(found.changed())
        await asyncio.sleep(0)
        ip(place, "address", "add", "192.0.2.7/32", "dev", LINK)
        done, _ = await asyncio.wait([heard], timeout=0.3)
        assert not done
        assert NEW not in found.read()
        ip(place, "address", "add", "192.0.2.8/32", "dev", "lo")
        await asyncio.wait_for(heard, 30)
