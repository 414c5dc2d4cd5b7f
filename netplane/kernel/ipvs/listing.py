"""Read /proc/net/ip_vs and ip_vs_conn: all destinations, and all connections, in one listing each.

How a server schedules is not all in there.
"""

from __future__ import annotations

from netplane.kernel.ipvs.objects import IPV4, IPV6, Connection, Destination, Load, Virtual

_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132, "AH": 51, "ESP": 50}
_MARK = "FWM"
_COUNTS = len("0          0         ")

Loads = dict[Destination, Load]


def read(listing: str) -> dict[Virtual, Loads]:
    """Return the destinations by virtual server. One known by its mark that has none is not in it.

    Lines of servers are `TCP  0A600001:0050 rr persistent 10800 FFFFFFFF` and `FWM  6E700000 rr`, and those of their
    destinations `  -> 0AF4010B:1F90      Masq    1      0          0`; IPv6 stands in brackets, written out.
    """
    found: dict[Virtual, Loads] = {}
    loads: Loads = {}
    mark = 0
    for line in listing.splitlines():
        words = line.split()
        if line.startswith("  -> "):
            if words[1] == "RemoteAddress:Port":
                continue
            where = Destination(*_place(words[1]))
            if mark:  # What its family is, only its destinations tell.
                loads = found.setdefault(Virtual(_family(where.address), 0, b"", 0, mark), loads)
            loads[where] = Load(int(words[3]), int(words[4]) + int(words[5]))
        elif words and (words[0] in _PROTOCOLS or words[0].startswith("IP_")):
            mark, loads = 0, {}
            address, port = _place(words[1])
            found[Virtual(_family(address), _protocol(words[0]), address, port)] = loads
        elif words and words[0] == _MARK:
            mark, loads = int(words[1], 16), {}
    return found


def stamp(listing: bytes) -> int:
    """Return a number that is another one when servers or destinations are others, whatever their connections do.

    The line of a destination ends with its two counts, 10 digits wide each.
    """
    return hash(tuple([line[:-_COUNTS] if line[:1] == b" " else line for line in listing.split(b"\n")]))


def connections(listing: str, protocol: int) -> list[Connection]:
    """Return the connections of a protocol, templates of persistence left out.

    A line is `UDP 0A63000A D431 0A600002 0050 0AF4010B 2328 UDP         296`; addresses of IPv6 are written out.
    """
    found = []
    for line in listing.splitlines():
        words = line.split()
        if len(words) > 6 and _PROTOCOLS.get(words[0]) == protocol:
            numbers = [bytes.fromhex(word.replace(":", "")) for word in words[1:7]]
            if any(numbers[1]):
                source, source_port, address, port, goal, goal_port = numbers
                ports = [int.from_bytes(one, "big") for one in (source_port, port, goal_port)]
                found.append(Connection(protocol, source, ports[0], address, ports[1], Destination(goal, ports[2])))
    return found


def _protocol(name: str) -> int:
    return _PROTOCOLS[name] if name in _PROTOCOLS else int(name.removeprefix("IP_"))


def _place(text: str) -> tuple[bytes, int]:
    address, _, port = text.rpartition(":")
    return bytes.fromhex(address.strip("[]").replace(":", "")), int(port, 16)


def _family(address: bytes) -> int:
    return IPV4 if len(address) == 4 else IPV6
