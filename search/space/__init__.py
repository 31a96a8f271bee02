"""Search spaces: genes, how they become an architecture and a recipe, the ready-made spaces.

Of the search, imports no other room.
"""
