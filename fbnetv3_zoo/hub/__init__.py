"""Names to networks with weights: records, licences, downloads, the cache, saved folders.

Imports `checkpoints` and the rooms above it.
"""
