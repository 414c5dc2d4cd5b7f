"""sd_notify, with and without somebody listening."""

import socket
from pathlib import Path

import pytest

from netplane.lib import notify


def test_ready_is_told_to_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        notify.ready()
        notify.status("two\nlines")
        assert [listener.recv(100), listener.recv(100)] == [b"READY=1", b"STATUS=two lines"]


def test_nobody_listening_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify.ready()
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify.stopping()
