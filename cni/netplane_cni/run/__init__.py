"""Carry out what plan decided: leases on disk, links in the kernel, the socket that the shim asks."""
