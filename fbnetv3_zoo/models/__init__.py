"""The network of an architecture, in torch: blocks, `build`, feature maps, inference.

Imports `arch` and the rooms above it.
"""
