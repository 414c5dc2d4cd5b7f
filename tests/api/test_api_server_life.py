"""The server's life: starting, stopping, dying, and saying clearly why it cannot start."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.support import apiserver
from tests.support.http_client import Client


def run(data_dir: Path, *options: str, port: int = 0) -> subprocess.CompletedProcess[str]:
    command = apiserver.command(data_dir, port or apiserver.free_port(), ("--no-controllers", *options))
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def test_no_acknowledged_write_is_lost_by_kill_9_and_revisions_go_on(tmp_path: Path) -> None:
    server = apiserver.start(tmp_path / "data")
    acknowledged: list[tuple[str, int]] = []

    def write(worker: int) -> None:
        client = Client(server)
        for number in range(10_000):
            name = f"w{worker}-{number}"
            try:
                code, made = client.ask("POST", "/api/v1/namespaces/default/configmaps", {"metadata": {"name": name}})
            except (OSError, http.client.HTTPException):  # killed before or amid the answer
                return
            if code == 201:
                acknowledged.append((name, int(made["metadata"]["resourceVersion"])))

    workers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + 10
    while len(acknowledged) < 100 and time.monotonic() < deadline:
        time.sleep(0.01)
    server.stop(signal.SIGKILL)
    for worker in workers:
        worker.join()
    with apiserver.running(tmp_path / "data") as again:
        client = Client(again)
        _, listed = client.ask("GET", "/api/v1/namespaces/default/configmaps")
        found = {item["metadata"]["name"]: int(item["metadata"]["resourceVersion"]) for item in listed["items"]}
        _, made = client.ask("POST", "/api/v1/namespaces/default/configmaps", {"metadata": {"name": "after"}})
    assert len(acknowledged) >= 100
    assert all(found.get(name) == revision for name, revision in acknowledged)
    assert int(made["metadata"]["resourceVersion"]) > max(found.values())


def test_a_watcher_goes_on_from_its_revision_after_a_restart(tmp_path: Path) -> None:
    server = apiserver.start(tmp_path / "data")
    _, made = Client(server).ask("POST", "/api/v1/namespaces/default/configmaps", {"metadata": {"name": "a"}})
    Client(server).ask("POST", "/api/v1/namespaces/default/configmaps", {"metadata": {"name": "b"}})
    assert server.stop() == 0
    with apiserver.running(tmp_path / "data") as again:
        revision = made["metadata"]["resourceVersion"]
        path = f"/api/v1/namespaces/default/configmaps?watch=1&resourceVersion={revision}"
        with Client(again).watch(path) as events:
            assert next(events)["object"]["metadata"]["name"] == "b"


def test_sigterm_ends_watches_well_and_the_server_quickly(tmp_path: Path) -> None:
    server = apiserver.start(tmp_path / "data")
    with Client(server).watch("/api/v1/namespaces?watch=1") as events:
        next(events)
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 3
        assert all(event["type"] in ("ADDED", "BOOKMARK") for event in events)


def test_a_taken_port_is_one_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run(tmp_path / "data", port=taken.getsockname()[1])
    assert done.returncode == 1
    assert done.stderr.startswith("netplane: cannot listen on 127.0.0.1:")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_a_data_directory_in_use_is_one_line(tmp_path: Path) -> None:
    with apiserver.running(tmp_path / "data"):
        done = run(tmp_path / "data")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "another server uses" in done.stderr


def test_a_data_directory_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(tmp_path / "file" / "data")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot write the data directory" in done.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--service-cidr", "10.96.0.0/16", "--cluster-cidr", "10.96.4.0/22"), "overlap"),
        (("--service-cidr", "10.96.0.1/16"), "not an address range"),
        (("--service-cidr", "rubbish"), "not an address range"),
        (("--cluster-cidr", "10.244.0.0/16,10.245.0.0/16"), "one for each IP family"),
        (("--cluster-cidr", "10.244.0.0/25"), "do not fit"),
        (("--service-cidr", "10.96.0.0/31"), "too small"),
        (("--listen", "localhost:1"), "not ADDRESS:PORT"),
        (("--advertise-address", "here"), "not an IP address"),
    ],
)
def test_a_wrong_option_is_a_usage_error_that_says_why(tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    done = run(tmp_path / "data", *options)
    assert done.returncode == 2
    assert told in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_damaged_store_is_told_and_kept(tmp_path: Path) -> None:
    server = apiserver.start(tmp_path / "data")
    server.stop()
    (tmp_path / "data" / "state.db").write_bytes(b"this is no database" * 400)
    done = run(tmp_path / "data")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "state.db" in done.stderr
    assert (tmp_path / "data" / "state.db").read_bytes().startswith(b"this is no database")


def test_inherited_sockets_are_served(tmp_path: Path) -> None:
    program = [*apiserver.command(tmp_path / "data", apiserver.free_port())]
    with socket.socket() as inherited:
        inherited.bind(("127.0.0.1", 0))
        inherited.listen()
        port = inherited.getsockname()[1]
        shell = f'exec 3<&{inherited.fileno()}; export LISTEN_FDS=1; exec "$@"'
        process = subprocess.Popen(["bash", "-c", shell, "bash", *program], pass_fds=[inherited.fileno()])
    server = apiserver.Server(tmp_path / "data", port, process)
    try:
        apiserver.wait(server)
    finally:
        server.stop()


def test_a_kubeconfig_made_offline_is_believed(tmp_path: Path) -> None:
    with apiserver.running(tmp_path / "data") as server:
        options = ["--data-dir", str(tmp_path / "data"), "--server", server.url]
        who = ["--user", "system:node:n1", "--group", "system:nodes"]
        command = [*apiserver.program(), "kubeconfig", *options, *who]
        made = subprocess.run(command, capture_output=True, text=True, check=True)
        token = made.stdout.split("token: ")[1].split()[0]
        node = Client(server, token=token)
        _, told = node.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
        assert told["status"]["userInfo"]["username"] == "system:node:n1"
        assert node.ask("GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dn1")[0] == 200
        assert node.ask("DELETE", "/api/v1/namespaces/default")[0] == 403
