"""`fbnetv3.integrations.detectron2_hooks`, under the name that users import."""

from fbnetv3.integrations.detectron2_hooks import *  # noqa: F403
