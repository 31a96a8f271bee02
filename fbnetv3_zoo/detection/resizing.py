"""torchvision's resizing of images, with sizes in whole numbers.

torchvision's own computes sizes in floating point: 427 pixels at a scale of 96 / 427 are 96 in
PyTorch, and 95 in its exported graph, whose numbers are shorter. All boxes then differ a little.
"""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes


class ExactTransform(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """torchvision's normalisation, resizing and batching, equal in PyTorch and in exported files.

    Args:
        given: the transform of a detector that resizes to a shorter side.
    """

    def __init__(self, given: GeneralizedRCNNTransform) -> None:
        super().__init__(
            given.min_size,
            given.max_size,
            given.image_mean,
            given.image_std,
            size_divisible=given.size_divisible,
        )

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Returns the image (C, H, W) with its shorter or longer side as asked for, and the boxes.

        Sides are rounded down, to one pixel at least.
        """
        if torchvision._is_tracing():
            height, width = (n.to(torch.int64) for n in torch._shape_as_tensor(image)[-2:])
        else:
            height, width = (torch.tensor(n) for n in image.shape[-2:])
        shorter, longer = torch.minimum(height, width), torch.maximum(height, width)
        by_shorter = self.min_size[-1] * longer <= self.max_size * shorter
        side = torch.where(by_shorter, self.min_size[-1], self.max_size)
        whole = torch.where(by_shorter, shorter, longer)
        scaled = (torch.div(n * side, whole, rounding_mode="floor") for n in (height, width))
        size = [n.clamp(min=1) for n in scaled]  # of images a thousand times as long as wide
        if not torchvision._is_tracing():
            size = [int(n) for n in size]  # type: ignore[misc]  # numbers in place of tensors
        before = image.shape[-2:]
        image = nn.functional.interpolate(
            image[None],
            size=size,  # type: ignore[arg-type]  # tensors while traced
            mode="bilinear",
            align_corners=False,
        )[0]
        if target is not None:
            boxes = resize_boxes(target["boxes"], before, image.shape[-2:])
            target = {**target, "boxes": boxes}
        return image, target
