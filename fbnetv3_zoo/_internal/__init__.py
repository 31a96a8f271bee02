"""Shared by all rooms: exceptions, atomic file writes, JSON records, messages, optional libraries.

Imports no other room.
"""
