"""The names of the spaces that come with the package; nothing slow is imported for them."""

from __future__ import annotations

from typing import Literal

SpaceName = Literal["paper_joint", "recipe_only", "cifar_joint"]
