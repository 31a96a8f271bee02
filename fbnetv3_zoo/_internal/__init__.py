"""What every room may use: values in messages, JSON records, optional libraries.

Imports no other room.
"""
