"""Choose a Node for every Pod. Running it there is the agent's."""

from netplane.controlplane.scheduler.loop import run

__all__ = ["run"]
