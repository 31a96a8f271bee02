"""The search from Python: plain functions in, results with data frames and plots out.

Imports `report` and the rooms above it.
"""
