"""A page that classifies images in a browser.

Imports `deploy` and the rooms above it.
"""
