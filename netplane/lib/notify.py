"""Tell the service manager how we are: sd_notify(3). Without NOTIFY_SOCKET every call does nothing."""

from __future__ import annotations

import os
import socket


def ready() -> None:
    """Say that start-up is complete and requests are served."""
    _send("READY=1")


def status(text: str) -> None:
    """Say in one line what we are doing."""
    _send("STATUS=" + text.replace("\n", " "))


def stopping() -> None:
    """Say that shutdown has begun."""
    _send("STOPPING=1")


def _send(message: str) -> None:
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(message.encode(), address)
        except OSError:
            return  # Nobody listens any more: the work matters more than the notice of it.
