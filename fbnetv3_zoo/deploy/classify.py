"""Classifies images with any backend that computes logits.

Decoding and preprocessing run on a few threads beside the model. The backend of a module is in
`torch_backend`, that of an exported file in `backend`; torch is imported only for the first, so
that the second works without torch.
"""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fbnetv3._internal.messages import either
from fbnetv3._internal.processors import available_cpus
from fbnetv3.hub.license_policy import check_terms
from fbnetv3.hub.pretrained_cfg import (
    class_names_of,
    confidence_of,
    license_of,
    preprocess_of,
    thresholds_of,
)
from fbnetv3.images import labels
from fbnetv3.images.folders import list_images
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.images.reader import ImageSource, describe, open_image

from . import runtimes
from .artefact import Artefact
from .backend import Backend, ExportedBackend
from .confidence import energy
from .forks import with_own_threads
from .multi_label import checked_thresholds, sigmoid
from .torch_backend import TorchBackend

if TYPE_CHECKING:
    import torch
    from torch import nn

# A `Preprocess`, or any other function from an RGB image to the backend's input.
Prepare: TypeAlias = Callable[[Image.Image], NDArray[Any]]
_MAX_WORKERS = 4


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        source: the image's path, or a description of it.
        labels: the most likely classes, best first; empty if the image failed. Of a multi-label
            model the classes whose scores reach their thresholds, which may be none.
        probabilities: their probabilities, from 0 to 1; over all classes they sum to 1, unless the
            model is multi-label.
        indices: their indices among the logits.
        error: why there is no prediction; None if there is one.
        none_of_these: whether the image is probably of none of the classes, which a threshold of
            the weights decides; `labels` are then the nearest. None if no threshold was fitted.
    """

    source: str
    labels: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    indices: tuple[int, ...] = ()
    error: str | None = None
    none_of_these: bool | None = None

    @property
    def label(self) -> str:
        """The most likely class, also of an image that is probably of none.

        Raises:
            ValueError: the image failed, or has none of the classes; the message says which.
        """
        if self.error is not None:
            raise ValueError(self.error)
        if not self.labels:
            raise ValueError(
                f"{self.source} has none of the classes: no score reaches its threshold; see labels"
            )
        return self.labels[0]

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as plain JSON types."""
        fields = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


class Classifier:
    """Classifies images; thread-safe.

    `classifier(image)` returns a `Prediction`, `classifier(images)` a list of them. An image that
    cannot be read gets a `Prediction` with `error`; the others are classified.

    Where temperature and threshold of the weights were fitted (`fbnetv3 train` does so, the weights
    inside the package have them), probabilities are calibrated and images of none of the classes
    are marked; `confidence` has both.

    Args:
        model: a name such as "fbnetv3_e" whose weights are loaded, the path of an exported file, a
            module, or a `Backend`. With `preprocess` and `class_names` the file may be of another
            tool. A module is copied, and an FBNetV3 also optimized
            (`fbnetv3.optimize`); later changes of the original have no effect.
        preprocess: from an RGB image to the model's input; default: that of the model's weights.
        class_names: a name for each logit, or the name of a list such as "imagenet1k"; default:
            those of the model's weights.
        device: device of the module; default: its current one.
        batch_size: batch size.
        top_k: number of classes per prediction; all, if there are fewer. Of no effect on a
            multi-label model.
        thresholds: score from which an image has a class of a multi-label model, a number or one
            for each class; 0 gives the scores of all classes. Default: those of the weights. A
            module or backend that has none becomes a multi-label model.
        num_threads: number of inference threads of torch or of the file's runtime; default: its
            own setting. torch's is one per core, which can be twice as slow as one thread for
            these models: measure. It belongs to the process; it is set for each run and restored.
        num_workers: number of image decoding threads; default: one per core, at most four.
        license: "commercial" refuses weights that forbid commercial use; None reads
            FBNETV3_LICENSE.
        offline: do not download a name's weights; None reads FBNETV3_OFFLINE or HF_HUB_OFFLINE.
        cache_dir: folder for the weights of a name instead of the default cache.

    Attributes:
        artefact: the metadata of an exported file; None for other models.

    Raises:
        ValueError: an argument is out of range, or is missing and unknown for the model.
    """

    artefact: Artefact | None = None

    def __init__(
        self,
        model: str | Path | nn.Module | Backend,
        *,
        preprocess: Prepare | None = None,
        class_names: str | Sequence[str] | None = None,
        device: torch.device | str | None = None,
        batch_size: int = 16,
        top_k: int = 5,
        thresholds: float | Sequence[float] | None = None,
        num_threads: int | None = None,
        num_workers: int | None = None,
        license: str | None = None,
        offline: bool | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        for name, value in (
            ("batch_size", batch_size),
            ("top_k", top_k),
            ("num_threads", num_threads),
            ("num_workers", num_workers),
        ):
            optional = value is None and name.startswith("num_")
            valid = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if not optional and not valid:
                raise ValueError(f"{name} is {value!r}; expected a whole number from 1")
        if isinstance(model, str | Path):
            if runtimes.is_exported(model):
                described = preprocess is not None and class_names is not None
                opened = runtimes.load_any if described else runtimes.load
                model, num_threads = opened(model, threads=num_threads), None
            else:
                model = _pretrained(model, license, offline, cache_dir)
        _check_license(model, license)
        if isinstance(model, ExportedBackend):
            model.artefact.need_classes(str(model.path))
            preprocess = preprocess or model.preprocess
            class_names = class_names or model.class_names
            self.artefact = model.artefact
        preprocess = preprocess or preprocess_of(model)
        if preprocess is None:
            raise ValueError("the model does not define its preprocessing; give preprocess=")
        names = _class_names(model) if class_names is None else _listed(class_names)
        self.preprocess = preprocess
        self.class_names = names
        self.confidence = (
            model.artefact.confidence
            if isinstance(model, ExportedBackend)
            else confidence_of(model)
        )
        num_classes = getattr(model, "num_classes", len(self.class_names))
        if num_classes != len(self.class_names):
            raise ValueError(
                f"{len(self.class_names)} class_names for a model of {num_classes} classes; give "
                "one per class"
            )
        self.thresholds = _thresholds(model, thresholds, len(names))
        if not isinstance(model, Backend):
            model = TorchBackend(model, device=device, num_threads=num_threads)
        elif device is not None or num_threads is not None:
            raise ValueError("device and num_threads are for modules; this backend has its own")
        self.backend = model
        self.batch_size = batch_size
        self.top_k = top_k
        self.num_workers = num_workers or min(_MAX_WORKERS, available_cpus())

    # Any: whether a path is a folder is known only at run time.
    def __call__(self, inputs: ImageSource | Iterable[ImageSource]) -> Any:
        """Returns a `Prediction` for a single image, a list of them for several.

        Args:
            inputs: anything that `open_image` takes, for one `Prediction`; a folder, a list, an
                iterator or a batch (N, H, W, 3) or (N, 3, H, W), for a list.

        Raises:
            ValueError: the type is not supported, a folder has no images, or the number of logits
                is not that of `class_names`.
        """
        if _is_single(inputs):
            return self._predict([(describe(inputs), self._prepared(inputs))])[0]
        return list(self.stream(inputs))

    def stream(self, inputs: ImageSource | Iterable[ImageSource]) -> Iterator[Prediction]:
        """Returns an iterator over the predictions, in the order of the inputs.

        It reads the inputs at most two batches ahead, so that they may be endless. Errors of the
        inputs' iterator are raised.

        Raises:
            ValueError: as in a call.
        """
        return self._stream(iter(_several(inputs)))

    def _stream(self, sources: Iterator[ImageSource]) -> Iterator[Prediction]:
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="fbnetv3-decode")
        waiting: deque[tuple[str, Future[NDArray[Any] | str]]] = deque()
        try:
            while True:
                for source in islice(sources, 2 * self.batch_size - len(waiting)):
                    waiting.append((describe(source), pool.submit(self._prepared, source)))
                if not waiting:
                    return
                due = [waiting.popleft() for _ in range(min(self.batch_size, len(waiting)))]
                # The second batch is decoded while the model runs on the first.
                yield from self._predict([(name, future.result()) for name, future in due])
        finally:
            pool.shutdown(cancel_futures=True)

    def _prepared(self, source: ImageSource) -> NDArray[Any] | str:
        """Returns the model's input, or an error message."""
        try:
            return self.preprocess(open_image(source))
        except (OSError, ValueError) as error:
            return str(error)

    def _predict(self, batch: Sequence[tuple[str, NDArray[Any] | str]]) -> list[Prediction]:
        images = [image for _, image in batch if not isinstance(image, str)]
        rows = iter(self._logits(np.stack(images)) if images else ())
        return [
            Prediction(name, error=image)
            if isinstance(image, str)
            else self._prediction(name, next(rows))
            for name, image in batch
        ]

    def _logits(self, images: NDArray[Any]) -> NDArray[np.float64]:
        logits = self.backend.run_batch(images)
        expected = (len(images), len(self.class_names))
        if logits.shape != expected:
            raise ValueError(
                f"the model returns logits of shape {logits.shape} for {len(images)} images; "
                f"expected {expected}, one for each of class_names"
            )
        return logits.astype(np.float64)

    def _prediction(self, source: str, logits: NDArray[np.float64]) -> Prediction:
        if not np.isfinite(logits).all():
            return Prediction(source, error=f"the logits for {source} are not finite")
        known = self.confidence
        best = np.argsort(-logits, kind="stable")
        if self.thresholds is None:
            probabilities = softmax(logits / known.temperature if known else logits)
            best = best[: self.top_k]
        else:
            probabilities = sigmoid(logits)
            best = best[(probabilities >= np.array(self.thresholds))[best]]
        return Prediction(
            source,
            labels=tuple(self.class_names[index] for index in best.tolist()),
            probabilities=tuple(probabilities[best].tolist()),
            indices=tuple(best.tolist()),
            none_of_these=None
            if known is None or known.threshold is None or self.thresholds is not None
            else bool(energy(logits) < known.threshold),
        )

    def set_image_size(self, size: int) -> None:
        """Prepares images at another size than the model's own, as a network takes any.

        Args:
            size: height and width of the input, in pixels.

        Raises:
            ValueError: the size is out of range, the model is a file for its own size, or its
                preprocessing is a function of yours.
        """
        if not isinstance(self.preprocess, Preprocess):
            raise ValueError(
                f"image_size is {size}, but preprocess is a function of yours, which has the size"
            )
        resized = self.preprocess.at(size)
        if isinstance(self.backend, ExportedBackend | TorchBackend):
            self.backend.check_image_size(size)
        self.preprocess = resized

    def set_threshold(self, threshold: float) -> None:
        """Sets the score from which an image has a class, for all classes of a multi-label model.

        Raises:
            ValueError: the model is not multi-label, or the threshold is not from 0 to 1.
        """
        if self.thresholds is None:
            raise ValueError(
                f"threshold is {threshold!r}, but the model gives each image one class; it is for "
                "multi-label models"
            )
        self.thresholds = checked_thresholds(threshold, len(self.class_names), "threshold")

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several classes, or none."""
        return self.thresholds is not None


def load(
    path: str | Path,
    *,
    num_threads: int | None = None,
    batch_size: int = 16,
    top_k: int = 5,
    num_workers: int | None = None,
    license: str | None = None,
) -> Classifier:
    """Returns a `Classifier` of an exported file of any format: `load("e.onnx")("cat.jpg")`.

    The extension selects the runtime; preprocessing, class names and licence are in the file. The
    metadata are in the attribute `artefact`; `backend.run_batch` returns the logits of a batch.

    Args:
        path: a file that `fbnetv3 export` or `fbnetv3 quantize` wrote.
        num_threads: number of inference threads; default: the runtime's.
        batch_size: batch size.
        top_k: number of classes per prediction; all, if there are fewer.
        num_workers: number of image decoding threads; default: one per core, at most four.
        license: "commercial" refuses weights that forbid commercial use; None reads
            FBNETV3_LICENSE.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the extension is unknown, the file was not exported by this package, an argument
            is out of range, or the licence policy refuses the weights.
        ImportError: the runtime is not installed.
    """
    if not runtimes.is_exported(path):
        raise ValueError(
            f"file is {path}; expected one that ends in {either(runtimes.suffixes())}; for a "
            "model's name, or local-dir:DIR for a saved folder, use fbnetv3.Classifier"
        )
    return Classifier(
        path,
        num_threads=num_threads,
        batch_size=batch_size,
        top_k=top_k,
        num_workers=num_workers,
        license=license,
    )


def _pretrained(
    name: str | Path,
    license: str | None,
    offline: bool | None,
    cache_dir: str | Path | None,
) -> nn.Module:
    from fbnetv3.hub.create import create

    return with_own_threads(
        lambda: create(name, pretrained=True, license=license, offline=offline, cache_dir=cache_dir)
    )


def _thresholds(
    model: object, given: float | Sequence[float] | None, num_classes: int
) -> tuple[float, ...] | None:
    """Returns the thresholds of a multi-label model, None of a single-label one."""
    own: Sequence[float] | None = thresholds_of(model)
    if isinstance(model, ExportedBackend):
        own = model.artefact.thresholds if model.artefact.multi_label else None
        if own is None and given is not None:
            raise ValueError(
                f"thresholds={given!r} is for multi-label models; {model.path} gives each image "
                "one class: leave it out"
            )
    if given is None and own is None:
        return None
    return checked_thresholds(own if given is None else given, num_classes, "thresholds")


def _check_license(model: object, policy: str | None) -> None:
    """Refuses a model that a given policy forbids."""
    if policy is None:
        return
    if isinstance(model, ExportedBackend):
        check_terms(str(model.path), model.artefact.license, policy)
    else:
        check_terms(type(model).__name__, license_of(model), policy)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns probabilities over the last axis; exact for logits of any size."""
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    total: NDArray[np.float64] = shares / shares.sum(axis=-1, keepdims=True)
    return total


def _is_single(inputs: object) -> TypeGuard[ImageSource]:
    if isinstance(inputs, str | os.PathLike):
        return not os.path.isdir(inputs)
    if isinstance(inputs, bytes | bytearray | Image.Image) or hasattr(inputs, "read"):
        return True
    return hasattr(inputs, "shape") and len(inputs.shape) < 4


def _several(inputs: Any) -> Iterable[ImageSource]:
    if _is_single(inputs):
        return (inputs,)
    if isinstance(inputs, str | os.PathLike):
        found = list_images(inputs)
        if not found:
            raise ValueError(
                f"no images in {os.fspath(inputs)}; see fbnetv3.images.folders.SUFFIXES"
            )
        return found
    if not isinstance(inputs, Iterable):
        raise ValueError(
            f"inputs are a {type(inputs).__name__}; expected an image (path, bytes, open file, PIL "
            "image, array, tensor), a folder, or several images"
        )
    return inputs


def _class_names(model: object) -> tuple[str, ...]:
    """Returns the class names of a model that has classes.

    Raises:
        ValueError: it has none, or does not say how they are called.
    """
    names = class_names_of(model)
    if not names and getattr(model, "num_classes", None) == 0:
        raise ValueError(
            "the model has no classifier (num_classes=0): call it with preprocessed images for "
            "their features, or give it classes"
        )
    if not names:
        raise ValueError("the model does not define its class names; give class_names=")
    return names


def _listed(class_names: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(class_names, str):
        return labels.class_names(class_names)
    return tuple(class_names)
