"""The cost of a candidate, exact or from a latency table; compound scaling.

Imports `space`.
"""
