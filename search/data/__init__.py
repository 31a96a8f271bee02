"""Labelled images to train on, and their augmentation.

Of the search, imports no other room.
"""
