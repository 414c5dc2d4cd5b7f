"""Carry it out: the engine's process and sockets, the cluster's API."""
