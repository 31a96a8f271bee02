"""`fbnetv3.integrations.detectron2_backbone`, under the name that users import."""

from fbnetv3.integrations.detectron2_backbone import *  # noqa: F403
