"""Evaluating candidates: objectives, workers, the local engine and Ray.

Imports `storage`, `training` and the rooms above them.
"""
