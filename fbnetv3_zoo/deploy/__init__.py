"""Exported files: writing, proving, quantising and running them.

Imports `hub` and the rooms above it.
"""
