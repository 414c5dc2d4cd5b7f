"""Try whether this kernel gets checksums inside tunnels right when the tunnel's end leaves them to the hardware.

Linux before 5.7 does not where the outer packet is masqueraded: it "corrects" an outer checksum that is not there, and
the packet is lost (ea64d8d6c675); distributions have mended older ones, and newer ones may break. So a datagram is sent
through a tunnel between two namespaces made for it, masqueraded on the way, over a cable without any offload, whose
other end therefore looks at every checksum.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from netplane.kernel import netns, offload
from netplane.kernel.errors import CommandFailed, KernelError
from netplane.kernel.link import run as link
from netplane.kernel.link.objects import Address, Forward, LinkChange, Neighbour, Veth, Vxlan, add, change
from netplane.kernel.nft import run as nft
from netplane.lib import log
from netplane_cni.plan import fabric

FILE = "checksum.json"
PATIENCE = 0.1
ATTEMPTS = 15
"""A link that has just come up may lose what arrives in its first second, seen once in 25 times on a busy machine."""
PORT, VNI, TUNNEL, CABLE = 4789, 1, "tunnel", "cable"
OUTER = (bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2]))
INNER = (bytes([198, 51, 100, 1]), bytes([198, 51, 100, 2]))
MACS = (bytes([2, 0, 0, 0, 0, 1]), bytes([2, 0, 0, 0, 0, 2]))
MASQUERADE = (
    "table ip probe { chain out { type nat hook postrouting priority 100; "
    f"udp dport {PORT} masquerade fully-random; }}; }}"
)
"""What befalls the packets of Services' clients, whose mark the outer packet inherits."""

Try = Callable[[], bool | None]
"""Tells whether checksums are right; None when it cannot be tried."""


def is_sound(folder: Path, boot: str, attempt: Try) -> bool:
    """Tell whether checksums may be left to the hardware: tried once a boot, remembered in `folder`."""
    kept = folder / FILE
    key = {"boot": boot, "kernel": os.uname().release}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(kept.read_text())
        if {name: found[name] for name in key} == key:
            return bool(found["sound"])
    answer = attempt()
    if answer is None:
        return fabric.has_sound_checksums(os.uname().release)
    if not answer:
        log.get("cni").warning("this kernel spoils checksums in tunnels: they are computed in software")
    with contextlib.suppress(OSError):  # then it is tried again
        kept.write_text(json.dumps({**key, "sound": answer}))
    return answer


def attempt() -> bool | None:
    """Send the datagram. None when not even one whose checksum is computed in software arrives."""
    try:
        with contextlib.closing(_Ends()) as ends:
            if ends.passes():
                return True
            ends.compute_in_software(is_on=True)
            if not ends.passes():
                return None
            ends.compute_in_software(is_on=False)  # What is remembered for so long is worth a second look.
            return ends.passes()
    except (KernelError, CommandFailed, OSError) as error:
        log.get("cni").debug("checksums in tunnels were not tried", why=str(error))
        return None


class _Ends:
    """Two namespaces with a tunnel between them; the first masquerades."""

    def __init__(self) -> None:
        self._closing = contextlib.ExitStack()
        try:
            self._places = [self._place(), self._place()]
            netns.run_in(self._places[0], self._lay)
            self._sockets = [netns.run_in(place, partial(self._end, n)) for n, place in enumerate(self._places)]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of all of it."""
        self._closing.close()

    def passes(self) -> bool:
        """Tell whether a datagram arrives."""
        sending, receiving = self._sockets
        for _ in range(ATTEMPTS):
            sending.sendto(b"sound?", (socket.inet_ntop(socket.AF_INET, INNER[1]), PORT + 1))
            with contextlib.suppress(TimeoutError):
                return bool(receiving.recv(16))
        return False

    def compute_in_software(self, *, is_on: bool) -> None:
        """Leave nothing to the hardware, or all."""
        netns.run_in(self._places[0], lambda: offload.ensure_checksum(TUNNEL, is_on=not is_on))

    def _place(self) -> int:
        made = netns.fresh()
        self._closing.callback(os.close, made)
        return made

    def _lay(self) -> None:
        with link.Socket() as links:
            links.commit([add(Veth(CABLE, CABLE, self._places[1]))])
        nft.load_sync(MASQUERADE)
        offload.ensure_checksum(CABLE, is_on=False)

    def _end(self, number: int) -> socket.socket:
        with link.Socket() as links:
            cable = _index(links, CABLE)
            links.commit([add(Address(cable, OUTER[number], 24)), change(LinkChange(cable, is_up=True))])
            links.commit([add(Vxlan(TUNNEL, VNI, PORT, OUTER[number], cable, MACS[number]))])
            tunnel = _index(links, TUNNEL)
            links.commit([add(Address(tunnel, INNER[number], 24)), change(LinkChange(tunnel, is_up=True))])
            links.commit(
                [
                    add(Neighbour(tunnel, INNER[1 - number], MACS[1 - number])),
                    add(Forward(tunnel, MACS[1 - number], OUTER[1 - number])),
                ]
            )
        made = self._closing.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
        made.settimeout(PATIENCE)
        made.bind((socket.inet_ntop(socket.AF_INET, INNER[number]), PORT + 1))
        return made


def _index(links: link.Socket, name: str) -> int:
    there = links.link(name)
    if there is None:
        raise KernelError(2, f"find link {name}")
    return there.index
