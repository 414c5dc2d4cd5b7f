"""Read and write kernel parameters below /proc/sys. Which values are right, and why, is for the caller.

`net.*` parameters are those of the network namespace that the calling thread is in (`netns.inside`).
"""

from __future__ import annotations

from netplane.kernel.errors import from_os

ROOT = "/proc/sys/"


def read(name: str) -> str:
    """Return a parameter's value. `name` is `net.ipv4.ip_forward`, or with slashes when a part holds a dot."""
    try:
        with open(_path(name)) as file:
            return file.read().strip()
    except OSError as error:
        raise from_os(error, f"read sysctl {name}") from error


def write(name: str, value: str | int) -> None:
    """Set a parameter."""
    try:
        with open(_path(name), "w") as file:
            file.write(str(value))
    except OSError as error:
        raise from_os(error, f"set sysctl {name}={value}") from error


def ensure(name: str, value: str | int) -> bool:
    """Set a parameter unless it has the value already; tell whether it was changed.

    Reading first lets a daemon start where /proc/sys is read-only and the node was prepared by others.
    """
    if read(name) == str(value):
        return False
    write(name, value)
    return True


def _path(name: str) -> str:
    # sysctl(8): with a slash as first separator, dots belong to the names (an interface `eth0.100`).
    parts = name.split("/") if "/" in name else name.split(".")
    if ".." in parts or "" in parts:
        raise ValueError(f"{name!r} is not the name of a sysctl")
    return ROOT + "/".join(parts)
