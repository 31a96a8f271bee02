"""From names to models with weights: records, licences, downloads, the cache, saved models.

May import `_internal`, `arch`, `images`, `models` and `checkpoints`.
"""
