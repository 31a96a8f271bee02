"""The networks in timm, torchvision and Detectron2.

Imports `hub` and the rooms above it; nothing but the public face imports this room.
"""
