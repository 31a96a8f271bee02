"""The program `fbnetv3-search`, and the commands `fbnetv3 train` and `fbnetv3 eval`.

Imports any room.
"""
