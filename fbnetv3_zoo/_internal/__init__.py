"""Shared by all rooms: exceptions, atomic files, JSON records, messages, optional imports, devices.

Imports no other room.
"""
