"""A page that classifies photos in a browser.

Imports `deploy` and the rooms above it.
"""
