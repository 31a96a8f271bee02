"""A torch module as a `Backend` of `Classifier`. Torch is imported only when one is made."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .forks import with_own_threads

if TYPE_CHECKING:
    import torch
    from torch import nn


class TorchBackend:
    """A module as a `Backend`: a copy in evaluation mode, channels-last if it is an FBNetV3.

    Channels-last took 0.64 of the time for fbnetv3_nano at batch 16 (224 pixels) and 0.88 for
    fbnetv3_b at batch 8, both in float32 on one thread of a CPU with AVX-512.

    Args:
        model: images (N, 3, H, W) to logits (N, K), in any mode.
        device: device of the copy.
        num_threads: see `Classifier`.

    Raises:
        ValueError: the model is not a module, or the device is not available.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: torch.device | str | None = None,
        num_threads: int | None = None,
    ) -> None:
        from torch import nn

        from fbnetv3._internal.devices import known_device
        from fbnetv3.models.inference import optimize
        from fbnetv3.models.model import FBNetV3

        if not isinstance(model, nn.Module):
            raise ValueError(
                f"model is a {type(model).__name__}; expected a model's name, a torch module or "
                "a Backend"
            )
        if isinstance(model, FBNetV3):
            fast: nn.Module = with_own_threads(optimize, model)
        else:
            fast = copy.deepcopy(model).eval()
        try:
            self.model = fast if device is None else fast.to(known_device(device))
        except (RuntimeError, AssertionError) as error:  # depends on the build of torch
            raise ValueError(f"device is {device!r}: {error}") from error
        self.num_threads = num_threads

    def check_image_size(self, size: int) -> None:
        """Refuses an image size of which an FBNetV3 leaves nothing.

        Raises:
            ValueError: it is too small for the model.
        """
        from fbnetv3.models.model import FBNetV3

        if isinstance(self.model, FBNetV3):
            self.model.arch.check_side(size, "image_size")

    def run_batch(self, images: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """Returns logits (N, K) float32 of images (N, 3, H, W)."""
        return with_own_threads(self._run, images)

    def _run(self, images: NDArray[Any]) -> NDArray[np.floating[Any]]:
        import torch

        batch = torch.from_numpy(images)
        like = next(self.model.parameters(), batch)
        with torch.inference_mode(), torch_threads(self.num_threads):
            logits = self.model(batch.to(device=like.device, dtype=like.dtype))
            result: NDArray[np.floating[Any]] = logits.float().cpu().numpy()
        return result


class _Threads:
    """torch's setting, which all share: number of active runs, and the setting before them."""

    lock = threading.Lock()
    num_active = 0
    default = 0


@contextlib.contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Sets torch's number of threads for a run and restores it; None leaves it as it is."""
    import torch

    if number is None:
        yield
        return
    with _Threads.lock:
        # The first call in a thread copies the process's setting, so it must come before set.
        default = torch.get_num_threads()
        if not _Threads.num_active:
            _Threads.default = default
        _Threads.num_active += 1
        torch.set_num_threads(number)
    try:
        yield
    finally:
        with _Threads.lock:
            _Threads.num_active -= 1
            torch.set_num_threads(_Threads.default)
