"""The program `fbnetv3`.

Imports any room of the package, and the commands that the search lends it.
"""
