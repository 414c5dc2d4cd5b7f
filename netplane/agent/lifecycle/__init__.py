"""Carry out what `pods` decides: one worker for each pod of the node."""
