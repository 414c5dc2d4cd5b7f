"""Find out who on this host uses which bits of the packet mark: nftables, iptables-nft and iptables-legacy alike."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from netplane.kernel import process
from netplane.kernel.errors import CommandFailed
from netplane.kernel.nft import marks
from netplane.kernel.nft.marks import ALL, Use
from netplane.kernel.nft.run import Socket

LEGACY = {"ip": ("iptables-legacy-save", "ip_tables_names"), "ip6": ("ip6tables-legacy-save", "ip6_tables_names")}
_PROC = Path("/proc/thread-self/net")

_NUMBER = r"(0x[0-9a-f]+|\d+)"
_OPTIONS = re.compile(rf"--(mark|set-xmark|tproxy-mark|nfmask) {_NUMBER}(?:/{_NUMBER})?")
_CONNECTION = re.compile(r"-m connmark (! )?--mark \S+")


def users() -> list[Use]:
    """Return every rule's use of the mark in the network namespace of this thread. KernelError without the rights."""
    with contextlib.closing(Socket()) as kernel:
        found = [use for body in kernel.rules() if (use := marks.use(body))]
    for family, (tool, names) in LEGACY.items():
        path = _PROC / names
        if path.exists() and path.read_text().strip() and shutil.which(tool):
            with contextlib.suppress(CommandFailed):
                found += read_listing(family, process.run_sync((tool,)).text)
    return found


def read_listing(family: str, text: str) -> Iterator[Use]:
    """Read what iptables-save prints."""
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A "):
            looks_at = writes = 0
            for name, value, mask in _OPTIONS.findall(_CONNECTION.sub("", line)):
                bits = _bits(name, int(value, 0), int(mask, 0) if mask else ALL)
                if name == "mark":
                    looks_at |= bits
                else:
                    writes |= bits
            if looks_at or writes:
                yield Use(f"{family} {table}", line.split()[1], looks_at, writes, "iptables-legacy")


def _bits(name: str, value: int, mask: int) -> int:
    return marks.chosen(0, value) if name == "nfmask" else marks.chosen(value, mask)
