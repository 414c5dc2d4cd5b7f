"""Ask an API server over plain HTTP, to see what is really sent. Clients with opinions are the tests' own."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.support import apiserver


class Client:
    """One user's requests to a server."""

    def __init__(self, server: apiserver.Server, *, token: str | None = None) -> None:
        self._server = server
        self._token = server.token if token is None else token

    def ask(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Send a request and return the code and the decoded answer."""
        code, raw, _ = self.raw(method, path, body, headers=headers)
        try:
            return code, json.loads(raw)
        except ValueError:
            return code, raw.decode()

    def raw(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """Send a request and return code, bytes and headers."""
        with contextlib.closing(self._connection()) as connection:
            answer = self._send(connection, method, path, body, headers or {})
            return answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}

    @contextlib.contextmanager
    def watch(self, path: str, *, headers: Mapping[str, str] | None = None) -> Iterator[Iterator[Any]]:
        """Open a watch and yield its events; each read waits at most half a minute."""
        with contextlib.closing(self._connection()) as connection:
            answer = self._send(connection, "GET", path, None, headers or {})
            assert answer.status == 200, answer.read()
            yield (json.loads(line) for line in iter(answer.readline, b""))

    def _connection(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self._server.port, context=self._server.context(), timeout=30)

    def _send(
        self, connection: http.client.HTTPSConnection, method: str, path: str, body: Any, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **headers}
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        connection.request(method, path, body=data, headers=sent)
        return connection.getresponse()
