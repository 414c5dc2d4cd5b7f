"""A plain API server of canned objects: JSON only, lists in pages, watches, and nothing else (no WatchList, no writes).

It shares no code with the API servers and clients of this repository, so that what works with it works with any.
Objects are put in by the test; a change is told to those who watch.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

KINDS = {
    "/api/v1/services": ("v1", "Service"),
    "/api/v1/nodes": ("v1", "Node"),
    "/apis/discovery.k8s.io/v1/endpointslices": ("discovery.k8s.io/v1", "EndpointSlice"),
}
_PLURALS = {kind: path for path, (_, kind) in KINDS.items()}
_JSON = b"Content-Type: application/json\r\n"
Object = dict[str, Any]


class StaticApi:
    """Serves on a port of the loopback address, without TLS and without asking who."""

    def __init__(self) -> None:
        self.port = 0
        self.revision = 1
        self._objects: dict[str, dict[tuple[str, str], bytes]] = {path: {} for path in KINDS}
        self._events: dict[str, list[tuple[int, bytes]]] = {path: [] for path in KINDS}
        self._watchers: dict[str, set[asyncio.Event]] = {path: set() for path in KINDS}
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    def put(self, obj: Object) -> int:
        """Add or replace an object, tell the watchers, and return the revision."""
        path, key = _place(obj)
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        kind = "MODIFIED" if key in self._objects[path] else "ADDED"
        self._objects[path][key] = json.dumps(obj).encode()
        self._tell(path, kind, self._objects[path][key])
        return self.revision

    def drop(self, obj: Object) -> int:
        """Remove an object, tell the watchers, and return the revision."""
        path, key = _place(obj)
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        del self._objects[path][key]
        self._tell(path, "DELETED", json.dumps(obj).encode())
        return self.revision

    def _tell(self, path: str, kind: str, obj: bytes) -> None:
        line = b'{"type":"%s","object":%s}\n' % (kind.encode(), obj)
        self._events[path].append((self.revision, line))
        for watcher in self._watchers[path]:
            watcher.set()

    async def start(self) -> None:
        """Listen, the first time on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections and cut those that are open."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                await self._answer(urlsplit(head.split()[1]), writer)
        self._open.discard(writer)
        writer.close()

    async def _answer(self, url: Any, writer: asyncio.StreamWriter) -> None:
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path not in KINDS:
            return _whole(writer, 404, {"kind": "Status", "code": 404, "reason": "NotFound", "message": url.path})
        if query.get("watch") != "true":
            return self._list(writer, url.path, int(query.get("limit", 0)), int(query.get("continue", 0)))
        if "sendInitialEvents" in query:
            message = "sendInitialEvents is forbidden for watch"
            return _whole(writer, 422, {"kind": "Status", "code": 422, "reason": "Invalid", "message": message})
        await self._watch(writer, url.path, int(query.get("resourceVersion") or 0))
        return None

    def _list(self, writer: asyncio.StreamWriter, path: str, limit: int, start: int) -> None:
        version, kind = KINDS[path]
        items = list(self._objects[path].values())
        stop = start + limit if limit else len(items)
        metadata = {"resourceVersion": str(self.revision), **({"continue": str(stop)} if stop < len(items) else {})}
        head = json.dumps({"apiVersion": version, "kind": f"{kind}List", "metadata": metadata})
        body = head[:-1].encode() + b', "items": [' + b",".join(items[start:stop]) + b"]}"
        writer.write(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n" % (_JSON, len(body)) + body)

    async def _watch(self, writer: asyncio.StreamWriter, path: str, after: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n%sTransfer-Encoding: chunked\r\n\r\n" % _JSON)
        events, wake = self._events[path], asyncio.Event()
        at = next((at for at, (revision, _) in enumerate(events) if revision > after), len(events))
        self._watchers[path].add(wake)
        try:
            while True:
                lines = b"".join(line for _, line in events[at:])
                at = len(events)
                if lines:
                    writer.write(b"%x\r\n%s\r\n" % (len(lines), lines))
                    await writer.drain()
                await wake.wait()
                wake.clear()
        finally:
            self._watchers[path].discard(wake)


def _place(obj: Object) -> tuple[str, tuple[str, str]]:
    metadata = obj["metadata"]
    return _PLURALS[obj["kind"]], (metadata.get("namespace", ""), metadata["name"])


def _whole(writer: asyncio.StreamWriter, code: int, content: Object) -> None:
    body = json.dumps(content).encode()
    writer.write(b"HTTP/1.1 %d X\r\n%sContent-Length: %d\r\n\r\n" % (code, _JSON, len(body)) + body)


def kubeconfig(port: int) -> str:
    """Return a kubeconfig for it, which is JSON as well as YAML."""
    named = {"name": "static", "cluster": {"server": f"http://127.0.0.1:{port}"}}
    context = {"name": "static", "context": {"cluster": "static", "user": "static"}}
    users = [{"name": "static", "user": {}}]
    return json.dumps(
        {"kind": "Config", "current-context": "static", "clusters": [named], "contexts": [context], "users": users}
    )


@contextlib.asynccontextmanager
async def serving(api: StaticApi) -> AsyncIterator[StaticApi]:
    """Serve while the block runs."""
    await api.start()
    try:
        yield api
    finally:
        await api.stop()
