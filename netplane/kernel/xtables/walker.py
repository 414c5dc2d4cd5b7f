"""Look into tables of the legacy variant with python-iptables, in a process of its own: `walk` starts and asks it.

Run as `python -m netplane.kernel.xtables.walker PREFIX`. For every line of input it answers with one JSON object: for
each tool and table, what all chains whose names begin with the prefix hash to, and where the kernel's own chains lead
to one of them, with how many packets went there. libiptc reads the kernel's bytes themselves, so this sees what a
listing shows, without its price; but it may crash on bytes it does not know, and its handles belong to one process.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import struct
import sys
from collections.abc import Iterator
from typing import Any

import iptc

TABLES = ("filter", "nat")
_KINDS = {"iptables": iptc.Table, "ip6tables": iptc.Table6}


def main() -> None:
    """Answer until the input ends."""
    (prefix,) = sys.argv[1:]
    for _ in sys.stdin:
        sys.stdout.write(f"{json.dumps(look(prefix))}\n")
        sys.stdout.flush()


def look(prefix: str) -> dict[str, Any]:
    """Return what is there now: hashes by `iptables nat`, and the jumps to us as packets meet them."""
    found: dict[str, Any] = {"hashes": {}, "jumps": []}
    for tool, kind in _KINDS.items():
        for name in TABLES:
            try:
                table = kind(name, autocommit=False)
                table.refresh()
            except iptc.ip4tc.IPTCError:
                continue  # a kernel without this family, or without this table
            digest = hashlib.blake2b(digest_size=16)
            for chain in table.chains:
                is_ours = chain.name.startswith(prefix)
                if is_ours:
                    digest.update(chain.name.encode())
                elif not table.builtin_chain(chain.name):
                    continue
                for position, (entry, target) in enumerate(_rules(table, chain.name), 1):
                    if is_ours:
                        digest.update(_meaning(entry, target))
                    elif target.startswith(prefix):
                        digest.update(chain.name.encode() + _meaning(entry, target))
                        found["jumps"].append(_jump(tool, name, chain.name, position, entry, target))
            found["hashes"][f"{tool} {name}"] = digest.hexdigest()
            table.close()
    return found


def _rules(table: Any, chain: str) -> Iterator[tuple[Any, str]]:
    entry = table.first_rule(chain)
    while entry:
        target = table.get_target(entry)
        yield entry, target.decode() if target else ""
        entry = table.next_rule(entry)


def _meaning(entry: Any, target: str) -> bytes:
    """Return what a rule says, without its counters, and without where in memory its target stands."""
    kind = type(entry)
    start = ctypes.addressof(entry)
    parts = [ctypes.string_at(start, kind.nfcache.offset), target.encode()]
    at, end = kind.elems.offset, entry.target_offset
    # What goes to a chain, or ends with a verdict, has its name; others have parameters too.
    if entry.next_offset - end > _STANDARD_SIZE:
        end = entry.next_offset
    while at < end:
        extension = ctypes.string_at(start + at, _SIZE.unpack(ctypes.string_at(start + at, 2))[0])
        # The kernel writes the name as far as it goes, and leaves what follows it as it was.
        parts += extension[2:_REVISION].partition(b"\0")[0], extension[_REVISION:]
        at += len(extension)
    return b"\0".join(parts)


_SIZE = struct.Struct("=H")
_REVISION = 31
"""Where a match or target (xt_entry_match, xt_entry_target) has said its size and name, and its parameters follow."""
_STANDARD_SIZE = 40
"""Of xt_standard_target: a header of 32 bytes, the verdict, and what aligns it."""


def _jump(tool: str, table: str, chain: str, position: int, entry: Any, target: str) -> dict[str, Any]:
    counters = entry.counters
    return {
        "tool": tool,
        "table": table,
        "chain": chain,
        "position": position,
        "target": target,
        "packets": counters.pcnt,
        "bytes": counters.bcnt,
    }


if __name__ == "__main__":
    main()
