"""Photos and folders of photos: opening, preprocessing, class names.

Imports `_internal`.
"""
