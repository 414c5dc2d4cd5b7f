"""A server that shows kubectl what types there are, and keeps the bodies it is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

from netplane.controlplane.registry import builtin, discovery, openapi
from netplane.kube import protobuf


class Capture(ThreadingHTTPServer):
    """Answers discovery, says 201 to every POST with what it was sent, decoded, and keeps that in `bodies`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.bodies: list[dict[str, Any]] = []
        self.content_types: list[str] = []
        self.documents = openapi.Documents(builtin())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    server: Capture

    def log_message(self, format: str, *args: Any) -> None:
        return None

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        accepted = self.headers.get("Accept", "")
        if path in ("/api", "/apis") and "APIGroupDiscoveryList" in accepted:
            found = discovery.aggregated(builtin(), is_core=path == "/api", version="v2")
            return self._send(200, orjson.dumps(found), discovery.aggregated_content_type("v2"))
        if path == "/openapi/v3":
            return self._send(200, self.server.documents.index())
        if path.startswith("/openapi/v3/"):
            document = self.server.documents.document(path.removeprefix("/openapi/v3/"))
            if document is not None:
                return self._send(200, document.body)
        return self._send(404, orjson.dumps({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
                                             "reason": "NotFound", "message": f"{path} not found"}))  # fmt: skip

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.headers["Content-Type"]
        obj = protobuf.decode(body) if kind == protobuf.CONTENT_TYPE else orjson.loads(body)
        self.server.bodies.append(obj)
        self.server.content_types.append(kind)
        self._send(201, orjson.dumps(obj))

    def _send(self, code: int, body: bytes, content_type: str = "application/json") -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def running() -> Iterator[Capture]:
    """Serve on a free port of the loopback address until the block ends."""
    server = Capture()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
