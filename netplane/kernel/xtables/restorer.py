"""Change tables of the legacy variant with python-iptables, in a process of its own: `restore` starts and asks it.

Run as `python -m netplane.kernel.xtables.restorer`. For every line of input, a JSON object with `command` and `text`
(what iptables-restore --noflush would be given), it answers with one: `refused` is empty when all of it happened. Each
table is one transaction, made with the lock held that all iptables tools take. libiptc may crash on what it does not
know, and its handles belong to one process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import iptc

from netplane.kernel.xtables import lock
from netplane.kernel.xtables.objects import BUILTIN

LOCK_SECONDS = 30.0
_FIELDS = {"-s": "src", "-d": "dst", "-i": "in_interface", "-p": "protocol"}


class _Rule(iptc.Rule):  # type: ignore[misc]  # python-iptables has no types
    # Whether a target is a chain is else asked of every table, of closed ones, too, and that is a crash.
    tables = property(lambda rule: [rule.chain.table])


class _Rule6(iptc.Rule6):  # type: ignore[misc]  # python-iptables has no types
    tables = property(lambda rule: [rule.chain.table])

    def _enters_by(self, name: str) -> None:
        self.set_in_interface(name)
        # Its own mask compares but one bit of each letter: other interfaces would match, too.
        mask = self.entry.ipv6.iniface_mask.replace(b"\1", b"\xff")
        self.entry.ipv6.iniface_mask = mask

    in_interface = property(iptc.Rule6.get_in_interface, _enters_by)


_KINDS = {"iptables": (iptc.Table, _Rule), "ip6tables": (iptc.Table6, _Rule6)}


def main() -> None:
    """Answer until the input ends."""
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            with _locked():
                restore(asked["command"], asked["text"])
            refused = ""
        except (OSError, ValueError, iptc.IPTCError, iptc.xtables.XTablesError) as error:
            refused = str(error) or type(error).__name__
        sys.stdout.write(f"{json.dumps({'refused': refused})}\n")
        sys.stdout.flush()


def restore(command: str, text: str) -> None:
    """Carry out the text, table by table; ValueError names the line that was refused."""
    kind, make = _KINDS[command]
    table: Any = None
    for number, line in enumerate(text.splitlines(), 1):
        try:
            if line.startswith("*"):
                table = kind(line[1:], autocommit=False)
                table.refresh()
            elif line == "COMMIT":
                table.commit()
                table.close()
            else:
                _act(table, make, line)
        except (ValueError, AttributeError, iptc.IPTCError, iptc.xtables.XTablesError) as error:
            raise ValueError(f"line {number} ({line}): {error}") from error


def _act(table: Any, make: Any, line: str) -> None:
    if line.startswith(":"):
        name = line[1:].split()[0]
        if name not in BUILTIN:
            if not table.is_chain(name):
                table.create_chain(name)
            table.flush_entries(name)
        return
    verb, name, *rest = line.split(" ", 2)
    chain = iptc.Chain(table, name)
    if verb == "-X":
        table.delete_chain(name)
    elif verb == "-A":
        chain.append_rule(read(make(chain=chain), rest[0]))
    elif verb == "-I":
        place, words = rest[0].split(" ", 1)
        chain.insert_rule(read(make(chain=chain), words), int(place) - 1)
    elif verb == "-D":
        chain.delete_rule(read(make(chain=chain), rest[0]))
    else:
        raise ValueError("not a line of iptables-restore that is used here")


def read(rule: Any, text: str) -> Any:
    """Make the rule what its text says, as `objects` holds it: no quotes, one value or several after an option."""
    current: Any = None
    for is_not, option, values in _options(text.split()):
        mark = "!" if is_not else ""
        if option in _FIELDS:
            setattr(rule, _FIELDS[option], mark + values[0])
        elif option == "-m":
            current = rule.create_match(values[0])
        elif option == "-j":
            current = rule.create_target(values[0])
        elif option.startswith("--") and current is not None:
            current.set_parameter(option[2:], [*([mark] if mark else []), *values] if values or mark else "")
        else:
            raise ValueError(f"{option} is not understood")
    return rule


def _options(words: list[str]) -> Iterator[tuple[bool, str, list[str]]]:
    starts = [at for at, word in enumerate(words) if word.startswith("-")]
    for start, after in zip(starts, [*starts[1:], len(words)], strict=True):
        values = words[start + 1 : after]
        yield start > 0 and words[start - 1] == "!", words[start], values[:-1] if values[-1:] == ["!"] else values


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    held = os.open(lock.path(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    try:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise OSError(error.errno, f"{lock.holder() or 'somebody'} holds {lock.path()}") from error
                time.sleep(0.02)  # noqa: TID251 - a process of its own, without an event loop
        yield
    finally:
        os.close(held)


if __name__ == "__main__":
    main()
