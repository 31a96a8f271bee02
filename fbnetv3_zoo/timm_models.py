"""Importing this module registers our networks in timm, as `fbnetv3.register_timm()` does.

import fbnetv3.timm_models
timm.create_model("meta_fbnetv3_e", pretrained=True)
"""

from fbnetv3.integrations.timm_entrypoints import register_timm

register_timm()
