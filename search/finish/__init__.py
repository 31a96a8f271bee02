"""From the results of a search to models: trained in full, evaluated, exported, described.

Imports `nars` and the rooms above it.
"""
