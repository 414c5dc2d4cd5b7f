"""The fake tables and the kernel's, of both variants, list alike after the same texts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.kernel import netns
from netplane.kernel.errors import CommandFailed
from netplane.kernel.xtables import diff, fake, objects
from netplane.kernel.xtables.objects import COMMANDS, Tables, Variant
from netplane.kernel.xtables.run import Xtables

STATES: list[Tables] = [
    {
        "nat": {
            "PREROUTING": ("-j T-A",),
            "T-A": ("-j T-B", "-j ACCEPT"),
            "T-B": ("-p tcp -m tcp --dport 80 -j RETURN",),
        }
    },
    {"nat": {"PREROUTING": ("-j T-A",), "T-A": ("-j ACCEPT",)}, "filter": {"INPUT": ("-j T-F",), "T-F": ()}},
    {"nat": {"OUTPUT": ("-j T-C",), "T-C": ("-j T-B",), "T-B": ()}},
    {},
]
REFUSED = ["*nat\n:T-Z - [0:0]\n-A T-Z -j T-NOWHERE\nCOMMIT\n", "*nat\n-X T-NOWHERE\nCOMMIT\n"]


@pytest.fixture(params=["legacy", "nft"])
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Xtables]:
    variant: Variant = request.param
    place = str(tmp_path / "ns")
    netns.create(place)
    try:
        with contextlib.closing(netns.run_in(place, lambda: Xtables(variant))) as made:
            yield made
    finally:
        netns.remove_if_present(place)


def test_fake_and_kernel_hold_the_same_after_the_same_texts(kernel: Xtables) -> None:
    async def course() -> None:
        pretended = fake.Kernel()
        for command in COMMANDS:
            for want in STATES:
                have = await kernel.save(command, "T-")
                assert ours(have) == ours(await pretended.save(command, "T-"))
                text = objects.text(diff.tables(want, have))
                await kernel.load(command, text)
                await pretended.load(command, text)
                assert ours(await kernel.save(command, "T-")) == ours(want)
                for refused in REFUSED:
                    with pytest.raises(CommandFailed):
                        await kernel.load(command, refused)
                    with pytest.raises(CommandFailed):
                        await pretended.load(command, refused)
                assert ours(await kernel.save(command, "T-")) == ours(want)

    asyncio.run(course())


def ours(tables: Tables) -> Tables:
    return {table: chains for table, chains in tables.items() if chains}
