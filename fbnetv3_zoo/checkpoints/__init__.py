"""Files of tensors: reading, writing, and the dialects of other projects.

Imports `_internal` and `arch`.
"""
