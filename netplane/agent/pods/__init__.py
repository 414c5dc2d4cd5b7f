"""Decide for the pods of this node: what to do next (`decide`), and how they are (`status`). Doing is `lifecycle`'s."""
