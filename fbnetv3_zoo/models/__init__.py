"""The torch model: blocks, the `FBNetV3` module and `build`, feature maps, faster inference.

May import `_internal`, `arch` and `images`.
"""
