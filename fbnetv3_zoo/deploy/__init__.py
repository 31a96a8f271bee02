"""Exported files: writing, checking, quantizing and running them.

Imports `hub` and the rooms above it.
"""
