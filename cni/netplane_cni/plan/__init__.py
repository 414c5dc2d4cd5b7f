"""Decide for pods and nodes: addresses, wiring, paths between nodes, address translation. Doing it is run's."""
