"""Checkpoint files: reading, writing, and conversion from and to the layouts of other projects.

May import `_internal` and `arch`.
"""
