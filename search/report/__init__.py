"""Shows a search as an HTML page and as progress lines on a terminal.

Imports `nars` and the rooms above it.
"""
