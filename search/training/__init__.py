"""Training one network by one recipe: the loop, distillation, evaluation.

Imports `data`.
"""
