"""Execute CNI plugins and keep their results, which DEL needs again."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netplane.agent.runtime.cni import plan
from netplane.agent.runtime.cni.plan import Attachment, Call, CniError, Command, NetworkList
from netplane.agent.runtime.protocol import PortMapping

LIMIT = 60.0
SUFFIXES = (".conf", ".conflist", ".json")


@dataclass(frozen=True, slots=True)
class Plugins:
    """The folders of CNI: configurations, programs, and our cache of results."""

    conf_dir: Path
    bin_dirs: tuple[Path, ...]
    cache: Path

    def configured(self) -> NetworkList | None:
        """Return the first usable configuration in lexical order, None when there is none."""
        if not self.conf_dir.is_dir():
            return None
        for path in sorted(p for p in self.conf_dir.iterdir() if p.suffix in SUFFIXES):
            try:
                return plan.network_list(path.read_text(), single=path.suffix != ".conflist")
            except (OSError, CniError):
                continue
        return None

    async def add(self, where: Attachment) -> tuple[str, ...]:
        """Connect a sandbox and return its addresses. Raises CniError; what was half made is taken down first."""
        network = self.configured()
        if network is None:
            raise CniError("cni plugin not initialized")
        self._remember(network, where, None)
        result: Any = None
        try:
            for plugin in plan.order("ADD", network):
                result = await self._execute("ADD", network, plugin, where, result)
            found = plan.addresses(result)
        except (CniError, asyncio.CancelledError):
            await asyncio.shield(self._undo(where))
            raise
        self._remember(network, where, result)
        return found

    async def delete(self, where: Attachment) -> None:
        """Disconnect a sandbox with the configuration it was connected by; what never was connected is fine.

        Raises CniError when a plugin refuses; then it is to be tried again.
        """
        cached = self._recall(where.sandbox_id)
        if cached is None:
            return
        network, result, mappings = cached
        where = dataclasses.replace(where, port_mappings=mappings)
        for plugin in plan.order("DEL", network):
            await self._execute("DEL", network, plugin, where, result)
        self._cached(where.sandbox_id).unlink(missing_ok=True)

    async def _undo(self, where: Attachment) -> None:
        try:
            await self.delete(where)
        except CniError:
            self._cached(where.sandbox_id).unlink(missing_ok=True)

    async def _execute(
        self, command: Command, network: NetworkList, plugin: Mapping[str, Any], where: Attachment, previous: Any
    ) -> Any:
        path = ":".join(str(folder) for folder in self.bin_dirs)
        call = plan.call(command, network, plugin, where, path=path, previous=previous)
        output = await self._run(command, call)
        if command == "DEL" or not output.strip():
            return previous
        try:
            return json.loads(output)
        except ValueError as error:
            raise CniError(f'plugin type="{call.plugin}" answered no JSON: {output[:200]!r}') from error

    async def _run(self, command: Command, call: Call) -> bytes:
        program = self._find(call.plugin)
        try:
            child = await asyncio.create_subprocess_exec(
                program,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), **call.environment},
            )
        except OSError as error:
            raise CniError(f"cannot execute CNI plugin {program}: {error.strerror}") from error
        try:
            async with asyncio.timeout(LIMIT):
                out, err = await child.communicate(json.dumps(call.config).encode())
        except TimeoutError as error:
            raise CniError(f'plugin type="{call.plugin}" did not answer within {LIMIT:g} s') from error
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode:
            raise plan.failure(call.plugin, command, out if out.strip() else err, child.returncode)
        return out

    def _find(self, name: str) -> Path:
        for folder in self.bin_dirs:
            if os.access(folder / name, os.X_OK):
                return folder / name
        places = ", ".join(str(folder) for folder in self.bin_dirs)
        raise CniError(f'failed to find plugin "{name}" in path [{places}]')

    def _cached(self, sandbox_id: str) -> Path:
        return self.cache / f"{sandbox_id}.json"

    def _remember(self, network: NetworkList, where: Attachment, result: Any) -> None:
        self.cache.mkdir(parents=True, exist_ok=True)
        document = {
            "network": dataclasses.asdict(network),
            "portMappings": [dataclasses.asdict(mapping) for mapping in where.port_mappings],
            "result": result,
        }
        draft = self.cache / f".{where.sandbox_id}"
        draft.write_text(json.dumps(document))
        os.replace(draft, self._cached(where.sandbox_id))

    def _recall(self, sandbox_id: str) -> tuple[NetworkList, Any, tuple[PortMapping, ...]] | None:
        try:
            document = json.loads(self._cached(sandbox_id).read_text())
        except (OSError, ValueError):
            return None
        network = document["network"]
        mappings = tuple(PortMapping(**mapping) for mapping in document["portMappings"])
        return NetworkList(network["name"], network["version"], tuple(network["plugins"])), document["result"], mappings
