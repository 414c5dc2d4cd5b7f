"""Many watchers beside many writers, over real connections: each sees all that is its own, once, in order."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

from tests.support import apiserver
from tests.support.http_client import Client

_WRITERS, _EACH = 4, 30
_PATIENCE = 90.0
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def api(server: apiserver.Server) -> Client:
    return Client(server)


def _conf(name: str, shard: str, **more: str) -> dict[str, Any]:
    metadata = {"name": name, "labels": {"shard": shard, "suite": "watchers"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": more}


def _write(server: apiserver.Server, path: str, writer: int) -> None:
    """Make, change, move to another shard and delete, over and over."""
    api = Client(server)
    for number in range(_EACH):
        name = f"conf-{writer}-{number}"
        _, made = api.ask("POST", path, _conf(name, str(number % 2)))
        made["data"] = {"changed": "yes"}
        _, made = api.ask("PUT", f"{path}/{name}", made)
        made["metadata"]["labels"]["shard"] = str(1 - number % 2)
        code, _ = api.ask("PUT", f"{path}/{name}", made)
        assert code == 200
        if number % 3 == 0:
            assert api.ask("DELETE", f"{path}/{name}")[0] == 200


class _Watcher(threading.Thread):
    """Reads a watch until it has seen an object named `end`."""

    def __init__(self, server: apiserver.Server, path: str) -> None:
        super().__init__(daemon=True)
        self.seen: list[tuple[str, str, int]] = []
        self._socket = _open(server, path)

    def run(self) -> None:
        with contextlib.closing(self._socket), self._socket.makefile("rb") as lines:
            for line in lines:
                if not line.startswith(b"{"):
                    continue  # the head, and the sizes of chunks
                event = json.loads(line)
                metadata = event["object"]["metadata"]
                self.seen.append((event["type"], metadata["name"], int(metadata["resourceVersion"])))
                if metadata["name"] == "end":
                    return


def _open(server: apiserver.Server, path: str) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=_PATIENCE)
    made = server.context().wrap_socket(plain, server_hostname="localhost")
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}\r\n\r\n"
    made.sendall(head.encode())
    return made


def test_each_of_many_watchers_sees_what_is_its_own_once_and_in_order(
    server: apiserver.Server, api: Client, namespace: str
) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    _, listed = api.ask("GET", path)
    since = f"watch=1&resourceVersion={listed['metadata']['resourceVersion']}"
    queries = {
        "all": f"{path}?{since}&labelSelector=suite%3Dwatchers",
        "namespace": f"{path}?{since}",
        "shard": f"{path}?{since}&labelSelector=shard%20in%20(1,end)",
        "bookmarks": f"{path}?{since}&allowWatchBookmarks=true",
        "everywhere": f"/api/v1/configmaps?{since}&fieldSelector=metadata.namespace%3D{namespace}",
    }
    watchers = {name: [_Watcher(server, query) for _ in range(8)] for name, query in queries.items()}
    for each in [one for group in watchers.values() for one in group]:
        each.start()
    with futures.ThreadPoolExecutor(_WRITERS) as pool:
        list(pool.map(lambda writer: _write(server, path, writer), range(_WRITERS)))
    assert api.ask("POST", path, _conf("end", "end"))[0] == 201
    for group in watchers.values():
        for each in group:
            each.join(_PATIENCE)
            assert not each.is_alive(), "a watcher did not see the end"
            revisions = [revision for _, _, revision in each.seen]
            assert revisions == sorted(set(revisions))
            assert each.seen == group[0].seen
    whole = [event for event in watchers["namespace"][0].seen if event[1] != "kube-root-ca.crt"]
    assert whole == watchers["all"][0].seen
    assert len(whole) == _WRITERS * (_EACH * 3 + _EACH // 3) + 1
    _assert_sharded(whole, watchers["shard"][0].seen)


def _assert_sharded(whole: list[tuple[str, str, int]], sharded: list[tuple[str, str, int]]) -> None:
    """An object of shard 0 arrives when it moves, one of shard 1 leaves when it does."""
    expected: list[tuple[str, str, int]] = []
    turns: dict[str, int] = {}
    for type_, name, revision in whole:
        turn = turns[name] = turns.get(name, -1) + 1
        if name == "end":
            expected.append((type_, name, revision))
        elif int(name.rpartition("-")[2]) % 2 == 1:
            told = ("ADDED", "MODIFIED", "DELETED")[turn : turn + 1]
            expected += [(each, name, revision) for each in told]
        elif turn >= 2:
            expected.append(("ADDED" if turn == 2 else type_, name, revision))
    assert sharded == expected


def test_a_watcher_that_does_not_read_holds_up_no_other(server: apiserver.Server, api: Client, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    _, listed = api.ask("GET", path)
    query = f"{path}?watch=1&resourceVersion={listed['metadata']['resourceVersion']}"
    with contextlib.closing(_open(server, query)) as idle:
        idle.getpeername()
        watcher = _Watcher(server, query)
        watcher.start()
        for number in range(40):
            assert api.ask("POST", path, _conf(f"large-{number}", "0", text="x" * 300_000))[0] == 201
        assert api.ask("POST", path, _conf("end", "end"))[0] == 201
        watcher.join(_PATIENCE)
        assert not watcher.is_alive()
        assert len([name for _, name, _ in watcher.seen if name.startswith("large-")]) == 40
        # What it has not read is still its own, up to what the window holds; then it is told to list anew.
        with idle.makefile("rb") as lines:
            told = [json.loads(line) for line in _until_end(lines)]
    names = [event["object"]["metadata"]["name"] for event in told if event["type"] == "ADDED"]
    rest = [name for name in names if name.startswith("large-")]
    assert rest == [f"large-{number}" for number in range(len(rest))]
    assert names[-1] == "end" or told[-1]["object"]["code"] == 410


def _until_end(lines: Any) -> list[bytes]:
    """Read a watch's lines until `end` or an error comes."""
    found: list[bytes] = []
    for line in lines:
        if line.startswith(b"{"):
            found.append(line)
            if b'"name":"end"' in line or line.startswith(b'{"type":"ERROR"'):
                break
    return found


def test_watches_that_have_ended_leave_no_connection_in_memory(tmp_path: Path) -> None:
    def resident(running: apiserver.Server) -> float:
        return int(Path(f"/proc/{running.process.pid}/statm").read_text().split()[1]) * 4096 / 1e6

    with apiserver.running(tmp_path / "data") as alone:
        path = "/api/v1/namespaces/default/configmaps?watch=1"
        sizes = []
        for _ in range(6):
            watches = [_open(alone, path) for _ in range(100)]
            for each in watches:
                each.recv(16)
                each.close()
            sizes.append(resident(alone))
    # A connection with its TLS takes some 50 KB: kept, each hundred would add five MB.
    assert sizes[-1] - sizes[1] < 12, sizes
