"""Ask the process that looks into tables of the legacy variant (walker): starts it, and starts another when it dies."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

from netplane.kernel import netns
from netplane.kernel.xtables.child import Child


class Jump(NamedTuple):
    """Where one of the kernel's own chains leads to one of ours, and what has gone there."""

    tool: str
    table: str
    chain: str
    position: int
    target: str
    packets: int
    bytes: int


def is_possible() -> bool:
    """Tell whether python-iptables is here (the extra `iptables`)."""
    return importlib.util.find_spec("iptc") is not None


class Walker:
    """A process in a network namespace. For one thread at a time; a look takes as long as the tables are large."""

    def __init__(self, prefix: str, namespace: int | str = netns.OWN) -> None:
        """Take what our chains' names begin with. Nothing is started before the first look."""
        self._child = Child("walker", (prefix,), namespace, "look into iptables")

    def look(self) -> tuple[Jump, ...]:
        """Return what is there now. KernelError when the process died of it; the next look starts another."""
        return tuple(Jump(**one) for one in self._child.ask("look"))

    def close(self) -> None:
        """End the process."""
        self._child.close()
