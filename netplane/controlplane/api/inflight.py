"""Bound how many requests are being answered at once: more are told to come again (429). Watches and streams are free.

The administrators' group is never turned away, as in Kubernetes: somebody must be able to look.
"""

from __future__ import annotations

from dataclasses import dataclass

from netplane.controlplane.api import access, metrics, status


@dataclass(slots=True)
class Inflight:
    """The requests in flight, of those that read and of those that write; 0 is no bound."""

    most_reading: int
    most_mutating: int
    reading: int = 0
    mutating: int = 0

    def enter(self, user: access.User, verb: str) -> None:
        """Count one more; raise 429 when there are too many. Each `enter` that returned wants its `leave`."""
        if verb in metrics.MUTATING:
            held, most = self.mutating, self.most_mutating
        else:
            held, most = self.reading, self.most_reading
        if most and held >= most and access.MASTERS not in user.groups:
            raise status.too_many("Too many requests, please try again later.", retry_after=1)
        if verb in metrics.MUTATING:
            self.mutating += 1
        else:
            self.reading += 1

    def leave(self, verb: str) -> None:
        """Count one less."""
        if verb in metrics.MUTATING:
            self.mutating -= 1
        else:
            self.reading -= 1
