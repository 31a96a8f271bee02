"""The names of the built-in spaces, without slow imports."""

from __future__ import annotations

from typing import Literal

SpaceName = Literal["paper_joint", "recipe_only", "cifar_joint"]
