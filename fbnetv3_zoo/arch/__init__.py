"""Architectures as data: the `Arch` class, the published architectures, MACs and parameter counts.

May import `_internal`; needs neither torch nor numpy.
"""
