"""A run as an HTML page, and as lines on a terminal.

Imports `nars` and the rooms above it.
"""
