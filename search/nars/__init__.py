"""The search itself: rounds of candidates, evolution for each limit, the answers.

Imports `execution`, `predictors` and the rooms above them.
"""
