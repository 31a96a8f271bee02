"""Images and folders of images: opening, preprocessing, class names.

Imports `_internal`.
"""
