"""Whatever happens, in whatever order, killed at whatever step: no address is given twice, and none is lost."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.model import address
from netplane_cni.plan import ipam
from netplane_cni.plan.ipam import Exhausted, Pool
from netplane_cni.spec import CniError
from tests.support.cni_memory import Killed, Node

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "add",
                "add",
                "add",
                "delete",
                "delete",
                "vanish",
                "unpin",
                "sweep",
                "restart",
                "reboot",
                "wait",
                "tear",
                "lose",
            ]
        ),
        st.integers(0, 3),
        st.none() | st.integers(0, 6),
    ),
    max_size=30,
)


class Runtime:
    """What a runtime knows: which containers have which address, as it was told."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.told: dict[str, str] = {}
        self.begun: set[str] = set()

    async def act(self, action: str, number: int, killed_after: int | None) -> None:
        node, name = self.node, f"c{number}"
        node.chaos.left = killed_after
        try:
            if action == "add":
                self.begun.add(name)
                self.told[name] = await node.add(name)
            elif action == "delete":
                await node.delete(name)
                self.told.pop(name, None)
                self.begun.discard(name)
            elif action == "sweep":
                await node.verbs.sweep()
            else:
                await self.disturb(action, name)
        except CniError as error:
            if error.code != 11:
                raise
            if action == "add":
                self.told.pop(name, None)
        except Killed:
            # A runtime whose ADD or DEL got no answer knows nothing of the container's network any more.
            if action in ("add", "delete"):
                self.told.pop(name, None)
            await self.restart()

    async def disturb(self, action: str, name: str) -> None:
        node = self.node
        node.chaos.left = None
        if action == "vanish":
            (node.folder / name).unlink(missing_ok=True)
            node.cables.there = {
                link: found for link, found in node.cables.there.items() if f":{name}/" not in found.link.alias
            }
            self.told.pop(name, None)
        elif action == "unpin":
            # The container runs on, but nothing is at the path of its namespace any more.
            (node.folder / name).unlink(missing_ok=True)
            await self.restart()
        elif action == "lose":
            node.stop()
            for file in (node.folder / "state").iterdir():
                file.unlink()
            await node.start()
        elif action == "wait":
            await node.clock.advance(100.0)
        elif action == "reboot":
            node.boot += "+"
            node.cables.there.clear()
            self.told.clear()
            await self.restart()
        elif action == "tear":
            node.stop()
            with open(node.folder / "state" / "leases.journal", "ab") as journal:
                journal.write(b'00000000 {"op":"hold","contai')
            await node.start()
        elif action == "restart":
            await self.restart()

    async def restart(self) -> None:
        self.node.chaos.left = None
        self.node.stop()
        await self.node.start()

    def check(self) -> None:
        node = self.node
        assert len(set(self.told.values())) == len(self.told), "an address was given twice"
        held = {lease.container: lease for lease in node.verbs.leases if not lease.is_leaving}
        for name, told in self.told.items():
            assert address.text(held[name].addresses[0]) == told, "a lease was lost"
        routed = [ip for found in node.cables.there.values() for ip in found.addresses]
        assert len(set(routed)) == len(routed), "two cables carry one address"
        links = {lease.link for lease in node.verbs.leases}
        assert set(node.cables.there) <= links, "a cable has no lease"

    async def end(self) -> None:
        """DEL all that was ever begun: then every address is free again."""
        self.node.chaos.left = None
        for name in sorted(self.begun | {lease.container for lease in self.node.verbs.leases}):
            await self.node.delete(name)
        await self.node.verbs.sweep()
        assert self.node.verbs.leases == []
        assert self.node.cables.there == {}
        await self.node.clock.advance(1000.0)
        size = self.node.pools[0].size
        given_out = [await self.node.add(f"last{number}") for number in range(size)]
        assert len(set(given_out)) == size


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, cool_down=st.sampled_from([0.0, 30.0]))
def test_no_address_is_given_twice_and_none_is_lost(steps: list[tuple[str, int, int | None]], cool_down: float) -> None:
    async def life(folder: Path) -> None:
        node = Node(folder, cool_down=cool_down)
        await node.start()
        runtime = Runtime(node)
        for action, number, killed_after in steps:
            await runtime.act(action, number, killed_after)
            runtime.check()
        await runtime.end()
        node.stop()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(life(Path(folder)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 14), st.integers(1, 6))
def test_parallel_calls_get_different_addresses(killed_after: int, count: int) -> None:
    async def life(folder: Path) -> None:
        node = Node(folder)
        await node.start()
        found = await asyncio.gather(*(node.add(f"c{number}") for number in range(count)))
        assert len(set(found)) == count
        node.chaos.left = killed_after
        await asyncio.gather(*(node.delete(f"c{number}") for number in range(count)), return_exceptions=True)
        node.chaos.left = None
        node.stop()
        await node.start()
        for number in range(count):
            await node.delete(f"c{number}")
        await node.verbs.sweep()
        assert node.verbs.leases == []
        node.stop()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(life(Path(folder)))


PREFIXES = st.sampled_from(["10.1.0.0/27", "10.1.0.0/29", "10.1.0.0/30", "10.1.0.0/32", "fd00::/124", "fd00::/64"])


@given(PREFIXES, st.data())
def test_a_chosen_address_is_free_and_one_is_found_whenever_there_is_one(cidr: str, data: st.DataObject) -> None:
    prefix = address.prefix(cidr)
    low, high = Pool(prefix).bounds()
    span = min(high - low + 1, 64)
    width = len(prefix.network)
    ips = [(low + number).to_bytes(width, "big") for number in range(span)]
    some = st.sets(st.sampled_from(ips))
    excluded = tuple(address.Prefix(ip, width * 8) for ip in sorted(data.draw(some)))
    pool = Pool(prefix, excluded)
    held, cooling = data.draw(some), dict.fromkeys(data.draw(some), 5.0)
    after = data.draw(st.sampled_from([b"", prefix.network, prefix.last, *ips]))
    free = [ip for ip in ips if ip in pool and ip not in held and ip not in cooling]
    try:
        chosen = ipam.choose(pool, held=held, cooling=cooling, after=after)
    except Exhausted:
        assert not free
        assert high - low + 1 == span
    else:
        assert chosen in pool
        assert chosen not in held
        assert chosen not in cooling
