"""Decide what the engine shall hold: pure."""
