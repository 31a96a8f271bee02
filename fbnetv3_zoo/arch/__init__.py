"""Architectures as data: their rows, the published ones, counts in closed form.

Imports `_internal`.
"""
