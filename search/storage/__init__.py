"""Trials and results on disk, safe under kills and among many processes.

Of the search, imports no other room.
"""
