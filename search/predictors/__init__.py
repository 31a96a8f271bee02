"""Predictors of accuracy, trained on the candidates evaluated so far.

Imports `space`.
"""
