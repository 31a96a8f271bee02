"""`fbnetv3.integrations.detectron2_config`, under the name that users import."""

from fbnetv3.integrations.detectron2_config import *  # noqa: F403
