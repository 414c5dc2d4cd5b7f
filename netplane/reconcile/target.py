"""Keep one target as the facts want it: decide (want, plan), look (observe), do (commit), prove by planning again."""

from __future__ import annotations

from collections.abc import Sized
from typing import Generic, Protocol, TypeVar

from netplane.reconcile.loop import Cause
from netplane.reconcile.report import Outcome

F_contra = TypeVar("F_contra", contravariant=True)
S = TypeVar("S")
P = TypeVar("P", bound=Sized)


class Target(Protocol[F_contra, S, P]):
    """A part of the world: a kernel table, the routes between nodes. Facts say what state it should be in."""

    def want(self, facts: F_contra, /) -> S:
        """Return the state the facts call for. Pure."""

    async def observe(self) -> S:
        """Return the state the world is in, of what is ours."""

    def plan(self, want: S, have: S, /) -> P:
        """Return the operations that turn `have` into `want`, empty when they are alike. Pure."""

    async def commit(self, plan: P, /) -> None:
        """Do it in one transaction. A failure raises and leaves the world as it was."""


class Unsettled(OSError):
    """The world differs from what was committed right after the commit: somebody else writes there too."""


class Reconciler(Generic[F_contra, S, P]):
    """The act of a loop on one target. `offer` facts, wake the loop; only the newest facts count."""

    def __init__(self, target: Target[F_contra, S, P]) -> None:
        self._target = target
        self._facts: F_contra | None = None
        self._revision = ""
        self._have: S | None = None

    def offer(self, facts: F_contra, revision: str) -> None:
        """Put facts in the mailbox in place of those that nobody took."""
        self._facts, self._revision = facts, revision

    async def act(self, cause: Cause) -> Outcome:
        """Bring the target where the newest facts want it; look first unless only the facts changed."""
        if self._facts is None:
            return Outcome("")
        revision, want = self._revision, self._target.want(self._facts)
        must_look = self._have is None or cause != "change"
        have = await self._target.observe() if must_look or self._have is None else self._have
        plan = self._target.plan(want, have)
        if len(plan):
            self._have = None  # Until the commit returned, nobody knows.
            await self._target.commit(plan)
        self._have = want
        if must_look and len(plan):
            await self._prove(want)
        return Outcome(revision, operations=len(plan), is_verified=must_look)

    async def _prove(self, want: S) -> None:
        rest = self._target.plan(want, await self._target.observe())
        if len(rest):
            self._have = None
            raise Unsettled(f"{len(rest)} operations still to do right after a commit: does somebody else write here?")
