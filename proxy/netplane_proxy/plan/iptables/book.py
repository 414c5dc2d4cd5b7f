"""Keep all that the kernel shall hold, and tell which chains a change of some Service ports makes other.

What it holds follows from the Service ports alone and from no history: a restart comes to the same chains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from netplane.kernel.xtables import diff, objects
from netplane.kernel.xtables.objects import Change, Rules
from netplane.model.address import Family, Packed
from netplane_proxy.plan.forwarding import Forwarding, NodeFacts, PortForwarding, PortKey
from netplane_proxy.plan.iptables import frame, layout, rows, tree
from netplane_proxy.plan.iptables.layout import FILTER, NAT
from netplane_proxy.plan.iptables.rows import Compiled
from netplane_proxy.plan.iptables.tree import Item, Tree
from netplane_proxy.plan.ledger import Changes

Touched = set[tuple[str, str]]
"""Table and chain of what may be other."""


class Book:
    """All chains of both families."""

    def __init__(self, node: NodeFacts) -> None:
        """Start with what a node without Services has."""
        self.node = node
        self.sides = {family: Side(frame.of_node(node, family)) for family in Family}

    def holds(self, forwarding: Forwarding) -> bool:
        """Tell whether this is the book of that meaning."""
        rows = {key: row for side in self.sides.values() for key, row in side.rows.items()}
        return self.node == forwarding.node and rows == forwarding.ports

    def change(self, changes: Changes) -> dict[Family, dict[str, Change]]:
        """Take these changes, and return what they change in each table."""
        done: dict[Family, dict[str, Change]] = {}
        for family, side in self.sides.items():
            ours = {key: now for key, now in changes.items() if key.family is family}
            if ours and (made := side.change(ours)):
                done[family] = made
        return done


def of(forwarding: Forwarding) -> Book:
    """Return the book of a whole meaning."""
    made = Book(forwarding.node)
    made.change(dict(forwarding.ports))
    return made


class Side:
    """The chains of one family: `chains` by table and name, as the kernel shall hold them, and the `rows` behind."""

    def __init__(self, given: frame.Frame) -> None:
        """Start with the frame."""
        family = given.family
        self.chains: dict[str, dict[str, Rules]] = {layout.FILTER: {}, layout.NAT: {}}
        self.sizes = dict.fromkeys(layout.TABLES, 0)
        """How many rules each table holds."""
        self._frame = given
        self._fixed = frame.chains(given)
        self._own: dict[str, Rules] = {}
        self.rows: dict[PortKey, PortForwarding] = {}
        self._cluster_ips: Counter[Packed] = Counter()
        self._hairpin: Counter[Packed] = Counter()
        self._trees = {
            made.root: made
            for made in (
                Tree(NAT, layout.SERVICES, tree.by_destination(family)),
                Tree(NAT, layout.NODEPORTS, tree.by_port()),
                Tree(NAT, layout.HAIRPIN, tree.by_source(family)),
                Tree(FILTER, layout.REFUSE, tree.by_destination(family)),
                Tree(FILTER, layout.REFUSED_NODEPORTS, tree.by_port()),
            )
        }
        self._settle({(table, chain) for table, chains in self._fixed.items() for chain in chains})

    def change(self, changes: Changes) -> dict[str, Change]:
        """Take changes of Service ports of this family, and return what they change in each table."""
        touched: Touched = set()
        # First all that goes, then all that comes: one place may pass from one Service port to another.
        for key in changes:
            former = self.rows.pop(key, None)
            if former is not None:
                touched.update(self._leave(rows.compile(former, self._frame)))
        for key, now in changes.items():
            if now is not None:
                self.rows[key] = now
                touched.update(self._enter(rows.compile(now, self._frame)))
        return self._settle(touched)

    def _enter(self, made: Compiled) -> Iterator[tuple[str, str]]:
        for chain, rules in made.chains.items():
            self._own[chain] = rules
            yield NAT, chain
        for root, items in made.items.items():
            for item in items:
                yield from self._put(root, item)
        yield from self._count(layout.REFUSE, self._cluster_ips, made.cluster_ips)
        yield from self._count(layout.HAIRPIN, self._hairpin, made.hairpin)

    def _leave(self, made: Compiled) -> Iterator[tuple[str, str]]:
        for chain in made.chains:
            del self._own[chain]
            yield NAT, chain
        for root, items in made.items.items():
            for item in items:
                yield from self._drop(root, item)
        yield from self._discount(layout.REFUSE, self._cluster_ips, made.cluster_ips)
        yield from self._discount(layout.HAIRPIN, self._hairpin, made.hairpin)

    def _shared(self, root: str, ip: Packed) -> Item:
        return rows.cluster_ip(ip) if root == layout.REFUSE else rows.hairpin(ip, self._frame)

    def _count(self, root: str, uses: Counter[Packed], ips: Iterable[Packed]) -> Iterator[tuple[str, str]]:
        for ip in ips:
            uses[ip] += 1
            if uses[ip] == 1:
                yield from self._put(root, self._shared(root, ip))

    def _discount(self, root: str, uses: Counter[Packed], ips: Iterable[Packed]) -> Iterator[tuple[str, str]]:
        for ip in ips:
            uses[ip] -= 1
            if not uses[ip]:
                del uses[ip]
                yield from self._drop(root, self._shared(root, ip))

    def _put(self, root: str, item: Item) -> Iterator[tuple[str, str]]:
        found = self._trees[root]
        for chain in found.put(item):
            yield found.table, chain

    def _drop(self, root: str, item: Item) -> Iterator[tuple[str, str]]:
        found = self._trees[root]
        for chain in found.remove(item):
            yield found.table, chain

    def _settle(self, touched: Touched) -> dict[str, Change]:
        """Write down the chains that were touched, and return those that are other than before."""
        done: dict[str, Change] = {}
        for table in layout.TABLES:
            chains = sorted(chain for where, chain in touched if where == table)
            written = self.chains[table]
            had = {chain: written[chain] for chain in chains if chain in written}
            want = {chain: rules for chain in chains if (rules := self._rules(table, chain)) is not None}
            made = diff.chains(want, had)
            objects.checked(made.written)
            gone = sum(len(written.get(chain, ())) for chain in (*made.removed, *made.written))
            self.sizes[table] += sum(map(len, made.written.values())) - gone
            for chain in made.removed:
                del written[chain]
            written.update(made.written)
            if len(made):
                done[table] = made
        return done

    def _rules(self, table: str, chain: str) -> Rules | None:
        if table == NAT and chain in self._own:
            return self._own[chain]
        fixed = self._fixed[table].get(chain)
        for found in self._trees.values():
            if found.table == table and (rules := found.rules(chain)) is not None:
                return (*frame.before(chain), *rules, *(fixed or ()))
        return fixed
