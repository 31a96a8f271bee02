"""Whether weights know what is on the package's photos.

No hash is published for most weights that are downloaded. A file of the right names and shapes can
still have random numbers in it; a trained network is recognised by its answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fbnetv3.images.labels import class_names, example_photos
from fbnetv3.images.reader import open_image

from .loading import build_from_state, stored_classes
from .weights import Weights

if TYPE_CHECKING:
    from torch import Tensor

_NUM_FIRST = 5
# Share of the logits' own spread by which they must differ between photos. Trained networks reach
# 0.8 (EfficientNet-Lite0 on these photos); networks as initialised stay below 0.001.
_MIN_DIFFERENCE = 0.05
# Class list -> photo -> classes that are right. The cat must be recognised, and half of the others.
_RIGHT: dict[str, dict[str, tuple[str, ...]]] = {
    "imagenet1k": {
        "chelsea": ("tabby", "tiger cat", "Egyptian cat", "Persian cat", "Siamese cat", "lynx"),
        "coffee": ("espresso", "cup", "coffee mug", "coffeepot", "eggnog"),
        "rocket": ("missile", "projectile", "space shuttle"),
    },
    "cifar10": {"chelsea": ("cat",)},
}
_CAT = "chelsea"
# The class lists with right answers, and their number of classes.
_NUM_CLASSES = {"imagenet1k": 1000, "cifar10": 10}


def check_meaning(weights: Weights, state: Mapping[str, Tensor]) -> str | None:
    """Returns what weights say of the package's photos.

    Args:
        weights: their record.
        state: name -> tensor in our layout.

    Returns:
        The first answer for each photo, None if no right answers are known for its classes.

    Raises:
        ValueError: they do not fit the architecture, or do not know the photos.
    """
    if weights.num_classes != _NUM_CLASSES.get(weights.labels):
        return None
    import torch

    if stored_classes(state) != weights.num_classes:
        raise ValueError(
            f"the file of {weights.name} has {stored_classes(state)} classes, expected "
            f"{weights.num_classes}; delete it and download it again"
        )
    model = build_from_state(weights.arch, state, source=weights.name).eval()
    right = _RIGHT[weights.labels]
    photos = [path for path in example_photos() if path.stem in right]
    names = class_names(weights.labels)
    batch = torch.stack([torch.from_numpy(weights.preprocess(open_image(p))) for p in photos])
    with torch.inference_mode():
        logits = model(batch).float()
    said = {
        path.stem: [names[index] for index in row.topk(_NUM_FIRST).indices.tolist()]
        for path, row in zip(photos, logits, strict=True)
    }
    known = [photo for photo, answers in said.items() if set(answers) & set(right[photo])]
    first = ", ".join(f"{photo}: {answers[0]}" for photo, answers in said.items())
    wrong = ""
    if not bool(torch.isfinite(logits).all()):
        wrong = "its logits are not finite"
    elif len(photos) > 1 and logits.std(0).mean() < _MIN_DIFFERENCE * logits.std(1).mean():
        wrong = "its answers do not depend on the photo"
    elif _CAT not in known or len(known) - 1 < (len(said) - 1) / 2:
        wrong = f"it does not know the package's photos ({first})"
    if wrong:
        raise ValueError(
            f"the file of {weights.name} does not have the published weights: {wrong}; delete it "
            "and download it again"
        )
    return first
