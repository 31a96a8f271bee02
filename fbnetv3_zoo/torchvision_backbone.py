"""`fbnetv3.integrations.torchvision_backbone`, under the name that users import."""

from fbnetv3.integrations.torchvision_backbone import *  # noqa: F403
