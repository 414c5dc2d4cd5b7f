"""Look into tables of the legacy variant with python-iptables, in a process of its own: `walk` starts and asks it.

Run as `python -m netplane.kernel.xtables.walker PREFIX`. For every line of input it answers with a JSON list: where
the kernel's own chains lead to one whose name begins with the prefix, with how many packets went there. libiptc may
crash on bytes it does not know, and its handles belong to one process.
"""

from __future__ import annotations

import json
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


def look(prefix: str) -> list[dict[str, Any]]:
    """Return the jumps to us as packets meet them."""
    found = []
    for tool, kind in _KINDS.items():
        for name in TABLES:
            try:
                table = kind(name, autocommit=False)
                table.refresh()
            except iptc.ip4tc.IPTCError:
                continue  # a kernel without this family, or without this table
            for chain in [one for one in table.chains if table.builtin_chain(one.name)]:
                for position, (entry, target) in enumerate(_rules(table, chain.name), 1):
                    if target.startswith(prefix):
                        found.append(_jump(tool, name, chain.name, position, entry, target))
            table.close()
    return found


def _rules(table: Any, chain: str) -> Iterator[tuple[Any, str]]:
    entry = table.first_rule(chain)
    while entry:
        target = table.get_target(entry)
        yield entry, target.decode() if target else ""
        entry = table.next_rule(entry)


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
