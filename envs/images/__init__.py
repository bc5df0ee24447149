"""Pixels: decoded once, kept within bounds, shared by the processes of a node, scaled by one kernel."""
