"""The search itself: rounds of candidates, evolution for each limit, the results.

Imports `execution`, `predictors` and the rooms above them.
"""
