"""A connection to an API server that costs a client next to nothing, and someone to use it as."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from typing import Any

from tests.support import apiserver


class Connection:
    """One keep-alive connection that speaks just enough HTTP/1.1 to cost next to nothing."""

    def __init__(self, server: apiserver.Server, context: ssl.SSLContext, token: str) -> None:
        self._server = server
        self._context = context
        self._head = f"Host: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n".encode()

    async def open(self) -> Connection:
        """Connect."""
        self.reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self._server.port, ssl=self._context, server_hostname="localhost", limit=1 << 24
        )
        return self

    async def send(self, method: str, path: str, body: bytes = b"") -> int:
        """Send a request and read the answer's head; return its code and keep the length of its body."""
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        self._writer.write(f"{method} {path} HTTP/1.1\r\n".encode() + self._head + length + body)
        head = await self.reader.readuntil(b"\r\n\r\n")
        _, _, told = head.lower().partition(b"\r\ncontent-length:")
        self.length = int(told.partition(b"\r\n")[0]) if told else -1
        return int(head[9:12])

    async def drain(self) -> int:
        """Read the body, chunked or not, and return its size."""
        if self.length >= 0:
            return len(await self.reader.readexactly(self.length))
        total = 0
        while True:
            size = int(await self.reader.readline(), 16)
            total += len(await self.reader.readexactly(size + 2)) - 2
            if not size:
                return total

    async def ask(self, method: str, path: str, body: bytes = b"") -> int:
        """Send a request, read all of the answer, return its code."""
        code = await self.send(method, path, body)
        await self.drain()
        return code

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


async def editor(server: apiserver.Server, context: ssl.SSLContext) -> str:
    """Return the token of a service account that one RoleBinding lets edit: whom RBAC is evaluated for."""
    admin = await Connection(server, context, server.token).open()
    account = {"metadata": {"name": "editor"}}
    binding = {
        "metadata": {"name": "editor"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "ServiceAccount", "name": "editor", "namespace": "default"}],
    }
    await _made(admin, "/api/v1/namespaces/default/serviceaccounts", account)
    await _made(admin, "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding)
    made = await _made(admin, "/api/v1/namespaces/default/serviceaccounts/editor/token", {"spec": {}})
    admin.close()
    return str(made["status"]["token"])


async def _made(connection: Connection, path: str, obj: Mapping[str, object]) -> dict[str, Any]:
    code = await connection.send("POST", path, json.dumps(obj).encode())
    body = await connection.reader.readexactly(connection.length)
    assert code == 201, body
    return dict(json.loads(body))
