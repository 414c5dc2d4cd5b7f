"""Say which changes turn the peers that are there into those wanted."""

from __future__ import annotations

from collections.abc import Mapping

from netplane.kernel.wireguard.objects import Change, Peer

Peers = Mapping[bytes, Peer]


def peers(want: Peers, have: Peers, *, told: Peers | None = None) -> tuple[Change, ...]:
    """Return the changes, none when all is as wanted; those that are set come first.

    So a network that moves from one key to another, as when a peer changes its key, is never without an owner.
    `told` is what was wanted last: an endpoint that the kernel has learnt since from the peer's own packets, for a NAT
    stands between, is left as it is until something else is wanted.
    """
    before = told or {}
    changes = [Change("set", _needed(peer, have[key], before.get(key))) if key in have else Change("set", peer)
               for key, peer in sorted(want.items()) if not _is_so(peer, have.get(key), before.get(key))]  # fmt: skip
    return (*changes, *(Change("remove", Peer(key)) for key in sorted(have) if key not in want))


def _needed(want: Peer, have: Peer, told: Peer | None) -> Peer:
    keeps = have.endpoint is not None and told is not None and told.endpoint == want.endpoint
    return Peer(want.key, None if keeps else want.endpoint, want.networks)


def _is_so(want: Peer, have: Peer | None, told: Peer | None) -> bool:
    if have is None or have.networks != want.networks:
        return False
    is_told = told is not None and told.endpoint == want.endpoint and have.endpoint is not None
    return is_told or have.endpoint == want.endpoint
