"""Serve admission webhooks over HTTPS for tests: what each path answers is the test's."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support import tls

Answer = Callable[[dict[str, Any]], dict[str, Any]]
"""The review's `request` to the `response`, without its uid."""
_OF_CONTROLLERS = frozenset({"kube-root-ca.crt"})


class Hooks:
    """A running webhook server: answers by path, and every request it saw."""

    def __init__(self, ca_pem: str, port: int) -> None:
        self.ca_bundle = base64.b64encode(ca_pem.encode()).decode()
        self.port = port
        self.answers: dict[str, Answer] = {}
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def url(self, path: str) -> dict[str, Any]:
        """Return a clientConfig that names this server by URL."""
        return {"url": f"https://127.0.0.1:{self.port}{path}", "caBundle": self.ca_bundle}

    def asked(self, path: str) -> list[dict[str, Any]]:
        """Return the requests that a path got, but for what a controller puts into every new namespace meanwhile."""
        return [request for at, request in self.seen if at == path and request.get("name") not in _OF_CONTROLLERS]


def allow(_: dict[str, Any]) -> dict[str, Any]:
    """Allow."""
    return {"allowed": True}


def patching(*operations: dict[str, Any]) -> Answer:
    """Return an answer that allows and patches."""
    patch = base64.b64encode(json.dumps(operations).encode()).decode()
    return lambda _: {"allowed": True, "patchType": "JSONPatch", "patch": patch}


@contextlib.contextmanager
def serving(folder: Path, *names: str) -> Iterator[Hooks]:
    """Serve webhooks on loopback for as long as the block lasts; the certificate is good for the names too."""
    ca_pem, context = tls.authority(folder, names=names)
    made: list[Hooks] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            made[0].seen.append((self.path, body.get("request")))
            answer = made[0].answers[self.path](body["request"])
            response = {**answer, "uid": body["request"]["uid"]}
            told = json.dumps({"apiVersion": body["apiVersion"], "kind": body["kind"], "response": response}).encode()
            with contextlib.suppress(OSError):
                self.send_response(200)
                self.send_header("Content-Length", str(len(told)))
                self.end_headers()
                self.wfile.write(told)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = _Quiet(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    made.append(Hooks(ca_pem, server.server_address[1]))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield made[0]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a server asks many times at once; what is too much for the queue is reset

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of handshakes that tests fail on purpose."""
