"""Make clients forget backends that are gone: the kernel remembers them until a time-out."""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping

from netplane.kernel.errors import KernelError
from netplane.kernel.nft import objects
from netplane.kernel.nft.objects import Batch, Element
from netplane.kernel.nft.run import Kernel
from netplane.model.address import Family
from netplane_proxy.plan.nftables.layout import LAYOUTS, LIST_MASK

ATTEMPTS = 5
BATCH = 2000

Backends = Mapping[int, frozenset[bytes]]


def purge(kernel: Kernel, family: Family, backends: Backends, *, lists: Collection[int] | None = None) -> int:
    """Remove what binds clients to a backend that its list no longer has. Return how many clients were set free.

    `lists` narrows it to these lists; without it all are looked at.
    """
    for _ in range(ATTEMPTS):
        stale = _stale(kernel, family, backends, lists)
        try:
            for start in range(0, len(stale), BATCH):
                kernel.commit(_removal(family, stale[start : start + BATCH]))
        except KernelError as error:
            # An entry's time ran out between listing and removal, and the whole batch was refused.
            if error.errno != errno.ENOENT:
                raise
            continue
        return len(stale)
    return _one_by_one(kernel, family, _stale(kernel, family, backends, lists))


def _stale(kernel: Kernel, family: Family, backends: Backends, lists: Collection[int] | None) -> list[bytes]:
    sets = LAYOUTS[family]
    if family is Family.V4:
        bound = {element.key: _bytes(element) for element in kernel.dump(sets.affinity[0])}
        at = 4
    else:
        # Address and port are remembered in two maps; between the two updates of one packet the second may be missing.
        ports = {element.key: _bytes(element) for element in kernel.dump(sets.affinity[1])}
        ips = kernel.dump(sets.affinity[0])
        bound = {e.key: _bytes(e) + ports[e.key][:2] + b"\0\0" for e in ips if e.key in ports}
        at = 0

    def is_stale(key: bytes, backend: bytes) -> bool:
        number = objects.number(key[at : at + 4]) & LIST_MASK
        return (lists is None or number in lists) and backend not in backends.get(number, ())

    return [key for key, backend in bound.items() if is_stale(key, backend)]


def _removal(family: Family, keys: list[bytes]) -> Batch:
    batch = Batch()
    for target in LAYOUTS[family].affinity:
        batch.remove(target, [Element(key) for key in keys])
    return batch


def _one_by_one(kernel: Kernel, family: Family, keys: list[bytes]) -> int:
    for key in keys:
        for target in LAYOUTS[family].affinity:
            batch = Batch()
            batch.remove(target, [Element(key)])
            try:
                kernel.commit(batch)
            except KernelError as error:
                if error.errno != errno.ENOENT:
                    raise
    return len(keys)


def _bytes(element: Element) -> bytes:
    return element.data if isinstance(element.data, bytes) else b""
