"""Search spaces: genes, how they become an architecture and a recipe, the built-in spaces.

Imports no other room of the search.
"""
