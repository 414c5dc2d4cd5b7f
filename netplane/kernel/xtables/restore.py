"""Load tables of the legacy variant by python-iptables: no program is executed per change. What to load is others'."""

from __future__ import annotations

import asyncio

from netplane.kernel.errors import CommandFailed
from netplane.kernel.xtables.child import Child
from netplane.kernel.xtables.objects import COMMANDS, Command, Rules
from netplane.kernel.xtables.run import Xtables


class Restorer:
    """The legacy tables of the network namespace in which it was made, as `run.Kernel`. Listings are the tools'."""

    def __init__(self) -> None:
        """Remember the namespace. KernelError without the tools; nothing is started before the first load."""
        self._tools = Xtables("legacy")
        # A process each: in one that has had IPv4's, libxtables no longer finds IPv6's targets.
        self._children = {command: self._child(command) for command in COMMANDS}
        self._lock = asyncio.Lock()

    def close(self) -> None:
        """Let go of the namespace, and end the processes."""
        for child in self._children.values():
            child.close()
        self._tools.close()

    async def load(self, command: Command, text: str) -> None:
        """Carry out `objects.text`, each table in one transaction. CommandFailed names the line that was refused."""
        async with self._lock:
            answer = await asyncio.to_thread(self._children[command].ask, {"command": command, "text": text})
        if answer["refused"]:
            raise CommandFailed(0, f"change {command} by python-iptables", str(answer["refused"]), returncode=1)

    async def save(self, command: Command, prefix: str) -> dict[str, dict[str, Rules]]:
        """Return what is ours of each table there is."""
        return await self._tools.save(command, prefix)

    def _child(self, command: Command) -> Child:
        return Child("restorer", (), self._tools.namespace, f"change {command}")
