"""Latency, memory and FLOPs of networks and of exported files.

Imports `deploy` and the rooms above it.
"""
