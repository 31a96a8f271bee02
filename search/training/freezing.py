"""Parts of a network that a fine-tuning leaves as they are."""

from __future__ import annotations

from torch import nn


def parts_of(model: nn.Module) -> list[nn.Module]:
    """Returns the parts of a network that have weights, in order; the last is the classifier.

    The modules directly inside the network, and in place of an `nn.Sequential` the modules inside
    that. FBNetV3: the stem, its stages, the head and the classifier.
    """
    parts: list[nn.Module] = []
    for child in model.children():
        parts += child.children() if isinstance(child, nn.Sequential) else [child]
    return [part for part in parts if next(part.parameters(), None) is not None]


def frozen_parts(model: nn.Module, freeze: int | str) -> list[nn.Module]:
    """Returns the parts that a recipe does not train.

    Args:
        model: the network.
        freeze: as `Recipe.freeze`.

    Raises:
        ValueError: the network has fewer parts, or nothing would be left to train.
    """
    parts = parts_of(model)
    if freeze == "backbone":
        return parts[:-1]
    if not isinstance(freeze, int) or freeze >= len(parts):
        raise ValueError(
            f"recipe: freeze is {freeze}; expected less than {len(parts)}, the parts of the network"
        )
    return parts[:freeze]
