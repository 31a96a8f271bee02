"""The detectors that can be trained, and the folders in which trained ones are kept.

A folder holds `detector.json`, with all that builds the detector again, and `model.safetensors`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from fbnetv3._internal.files import write_atomically
from fbnetv3._internal.json_record import keywords_of, read_json
from fbnetv3.arch.arch import Arch
from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.checkpoint import read_own_tensors, stated_license, write_tensors
from fbnetv3.hub.cached_weights import CachedWeights
from fbnetv3.hub.create import resolve
from fbnetv3.hub.license_policy import check_terms, is_commercial
from fbnetv3.hub.pretrained import WEIGHTS_FILE
from fbnetv3.hub.weights import WEIGHTS
from fbnetv3.images.reader import ImageSource, open_image
from fbnetv3.integrations.torchvision_backbone import (
    Options,
    faster_rcnn,
    retinanet,
    ssdlite,
)

from .detections import Detections
from .resizing import ExactTransform
from .torchvision_trunks import TORCHVISION, with_torchvision_trunk

SCHEMA = "fbnetv3-detector/1"
CONFIG = "detector.json"


@dataclass(frozen=True)
class Kind:
    """A detector of torchvision on our backbone.

    Attributes:
        make: builds it.
        size: default size of images in pixels: the side of SSDlite's squares, else the shorter
            side.
        arguments: size -> arguments of `make`.
        freezes: freeze the batch-norms and first rows of trained weights, as torchvision does.
        threshold: attribute that holds the lowest score of a detection.
        about: one line of help.
    """

    make: Callable[..., nn.Module]
    size: int
    arguments: Callable[[int], dict[str, Any]]
    freezes: bool
    threshold: str
    about: str


def _sides(longest: float) -> Callable[[int], dict[str, Any]]:
    return lambda size: {"min_size": size, "max_size": round(size * longest)}


def _mobile(size: int) -> dict[str, Any]:
    """Returns the arguments of torchvision's mobile Faster R-CNN at 320 pixels."""
    return {
        **_sides(2)(size),
        "features": ("res4", "res5"),
        "rpn_pre_nms_top_n_test": 150,
        "rpn_post_nms_top_n_test": 150,
        "rpn_score_thresh": 0.05,
    }


DETECTORS: dict[str, Kind] = {
    "ssdlite": Kind(
        make=ssdlite,
        size=320,
        arguments=lambda size: {"size": size},
        freezes=False,
        threshold="score_thresh",
        about="one stage, on squares of 320 pixels",
    ),
    "faster_rcnn_320": Kind(
        make=faster_rcnn,
        size=320,
        arguments=_mobile,
        freezes=True,
        threshold="roi_heads.score_thresh",
        about="two stages, shorter side 320 pixels",
    ),
    "faster_rcnn_320_lite": Kind(
        make=faster_rcnn,
        size=320,
        # The pyramid's width is that of the proposals and of the box head, which cost most.
        arguments=lambda size: {**_mobile(size), "out_channels": 128},
        freezes=True,
        threshold="roi_heads.score_thresh",
        about="the same with a pyramid of 128 channels in place of 256",
    ),
    "faster_rcnn": Kind(
        make=faster_rcnn,
        size=800,
        arguments=_sides(1333 / 800),
        freezes=True,
        threshold="roi_heads.score_thresh",
        about="two stages, shorter side 800 pixels",
    ),
    "retinanet": Kind(
        make=retinanet,
        size=800,
        arguments=_sides(1333 / 800),
        freezes=True,
        threshold="score_thresh",
        about="one stage, shorter side 800 pixels",
    ),
}


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """All that builds a detector again.

    Attributes:
        detector: a name of `DETECTORS`.
        arch: architecture of the backbone; None of torchvision's.
        class_names: name of each label from 1.
        size: of images in pixels, see `Kind`.
        norm: normalisation of the backbone, see `Options`.
        freeze_at: layers of the backbone that do not train, see `Options`.
        weights: what the backbone started from; "" for fresh weights.
        license: SPDX name of their license; "" if unknown or none.
        trunk: name of torchvision's backbone, see `torchvision_trunks`; "" for ours.
    """

    detector: str
    arch: Arch | None
    class_names: tuple[str, ...]
    size: int
    norm: str = "BN"
    freeze_at: int = 0
    weights: str = ""
    license: str = ""
    trunk: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as plain JSON types."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        names = list(self.class_names)
        arch = None if self.arch is None else self.arch.to_dict()
        return {"schema": SCHEMA, **fields, "arch": arch, "class_names": names}

    @staticmethod
    def from_dict(fields: Any, *, where: str) -> DetectorConfig:
        """Returns the record that `to_dict` wrote.

        Raises:
            ValueError: a field is missing, unknown or wrong.
        """
        if not isinstance(fields, Mapping) or fields.get("schema") != SCHEMA:
            raise ValueError(f"{where} is no detector of this package; expected {SCHEMA!r}")
        given = {key: value for key, value in fields.items() if key != "schema"}
        found = keywords_of(DetectorConfig, given, where)
        if found["detector"] not in DETECTORS:
            raise ValueError(
                f"{where}: detector is {found['detector']!r}; expected one of "
                f"{', '.join(DETECTORS)}"
            )
        arch = None if found["arch"] is None else Arch.from_dict(found["arch"])
        names = tuple(found["class_names"])
        return DetectorConfig(**{**found, "arch": arch, "class_names": names})


class BuiltDetector(NamedTuple):
    """A torchvision detector, and what builds it again."""

    module: nn.Module
    config: DetectorConfig


def new_detector(
    detector: str,
    model: str,
    class_names: Sequence[str],
    *,
    pretrained: bool,
    size: int | None = None,
    trainable_layers: int | None = None,
    license: str | None = None,
) -> BuiltDetector:
    """Returns a detector to train.

    Args:
        detector: a name of `DETECTORS`.
        model: the backbone, as in `fbnetv3.create`, or one of torchvision's, see
            `torchvision_trunks`. Of weights for small images the architecture keeps its full
            strides, since a detector needs coarse maps.
        class_names: name of each label from 1.
        pretrained: load the backbone's trained weights.
        size: of images in pixels, see `Kind`; None is its default.
        trainable_layers: of the backbone from the end, 0 to 5, as torchvision counts them; None
            trains all, and three of trained weights where torchvision does. With fewer than 5 its
            batch-norms are frozen.
        license: "commercial" refuses weights that forbid commercial use.

    Raises:
        ValueError: an argument is out of range, or the license is refused.
        FileNotFoundError: weights cannot be fetched.
    """
    if detector not in DETECTORS:
        raise ValueError(f"detector is {detector!r}; expected one of {', '.join(DETECTORS)}")
    kind = DETECTORS[detector]
    size = kind.size if size is None else size
    check_numbers(size, trainable_layers)
    if trainable_layers is None:
        trainable_layers = 3 if kind.freezes and pretrained else 5
    common: dict[str, Any] = {
        "detector": detector,
        "class_names": tuple(class_names),
        "size": size,
        "norm": norm_of(trainable_layers),
        "freeze_at": 5 - trainable_layers,
    }
    if model.startswith(TORCHVISION):
        if pretrained:
            check_terms(model, "", license)
        weights = f"{model} of ImageNet" if pretrained else ""
        config = DetectorConfig(**common, arch=None, weights=weights, trunk=model)
        return BuiltDetector(_on_torchvision(config, pretrained=pretrained), config)
    backbone, options, found_license, weights = _backbone(model, pretrained, license)
    config = DetectorConfig(
        **common,
        arch=backbone if isinstance(backbone, Arch) else resolved_arch(model),
        weights=weights,
        license=found_license,
    )
    options |= {"norm": config.norm, "freeze_at": config.freeze_at}
    module = _made(
        config,
        backbone,
        options=Options(license=license, **options),
        pretrained=pretrained and "checkpoint" not in options,
    )
    return BuiltDetector(module, config)


def _made(config: DetectorConfig, backbone: str | Arch, **options: Any) -> nn.Module:
    kind = DETECTORS[config.detector]
    module: Any = kind.make(
        backbone,
        num_classes=len(config.class_names) + 1,
        **options,
        **kind.arguments(config.size),
    )
    return _resized_exactly(module)


def _on_torchvision(config: DetectorConfig, *, pretrained: bool) -> nn.Module:
    module = with_torchvision_trunk(
        config.detector,
        config.trunk,
        num_classes=len(config.class_names) + 1,
        size=config.size,
        arguments=DETECTORS[config.detector].arguments(config.size),
        pretrained=pretrained,
        trainable_layers=5 - config.freeze_at,
    )
    return _resized_exactly(module)


def _resized_exactly(module: Any) -> nn.Module:
    if module.transform.fixed_size is None:
        module.transform = ExactTransform(module.transform)
    if hasattr(module, "roi_heads"):
        _set_scales(module)
    made: nn.Module = module
    return made


def _set_scales(module: Any) -> None:
    """Sets the strides of the pooled maps, which torchvision guesses once, of the first image.

    It guesses wrong of one that is much longer than wide, and then finds nothing in all others.
    """
    pool, training, side = module.roi_heads.box_roi_pool, module.training, 256
    with torch.no_grad():
        maps = module.eval().backbone(torch.zeros(1, 3, side, side))
        pool(maps, [torch.tensor([[0.0, 0.0, side, side]])], [(side, side)])
    module.train(training)


def resolved_arch(model: str) -> Arch:
    """Returns the architecture that a name stands for."""
    return resolve(model, False, license=None, cache_dir=None, offline=None).arch


def _backbone(
    model: str, pretrained: bool, license: str | None
) -> tuple[str | Arch, dict[str, Any], str, str]:
    """Returns the model, options that load its weights, their license and their name."""
    if not pretrained:
        return (_full_strides(model) or model), {}, "", ""
    source = resolve(model, True, license=license, cache_dir=None, offline=None)
    stated = str(source.cfg.get("license") or "")
    full = _full_strides(source.name)
    if full is None:
        return model, {}, stated, source.name
    record = WEIGHTS[source.name]
    check_terms(record.name, record.license, license)
    return full, {"checkpoint": CachedWeights(record).path()}, stated, source.name


def _full_strides(name: str) -> Arch | None:
    """Returns the published architecture of weights for small images; None of all others."""
    record = WEIGHTS.get(name)
    small = record is not None and record.variant == "small_image"
    return ARCHS[record.model] if record is not None and small else None


def save_detector(folder: Path, built: BuiltDetector) -> None:
    """Writes a folder for `load_detector`.

    Raises:
        OSError: the disk is full or not writable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = built.config
    about = {"license": config.license} if config.license else {}
    write_tensors(folder / WEIGHTS_FILE, built.module.state_dict(), about)
    write_atomically(folder / CONFIG, (json.dumps(config.to_dict(), indent=1) + "\n").encode())


def load_detector(folder: str | Path, *, license: str | None = None) -> BuiltDetector:
    """Returns the detector of a folder that `fbnetv3 detect train` wrote, in evaluation mode.

    Args:
        folder: the folder, or its file of weights.
        license: "commercial" refuses one whose backbone's weights forbid commercial use, as the
            file of weights or the folder says; None reads FBNETV3_LICENSE.

    Raises:
        FileNotFoundError: the folder lacks a file.
        ValueError: a file is damaged, or the license is refused.
    """
    folder = Path(folder)
    if folder.name == WEIGHTS_FILE:
        folder = folder.parent
    if folder.is_file():
        raise ValueError(
            f"{folder} is a file; expected the output folder of `fbnetv3 detect train`"
        )
    for path in (folder / CONFIG, folder / WEIGHTS_FILE):
        if not path.is_file():
            raise FileNotFoundError(
                f"no {path}; expected the output folder of `fbnetv3 detect train`"
            )
    path = folder / CONFIG
    config = DetectorConfig.from_dict(read_json(path.read_bytes(), str(path)), where=str(path))
    # A copied file keeps its licence, whatever the folder that it was put into says.
    of_file = stated_license(folder / WEIGHTS_FILE)
    if of_file and not is_commercial(of_file):
        config = dataclasses.replace(config, license=of_file)
    if config.weights or config.license:
        check_terms(str(folder), config.license, license)
    module = fresh_module(config)
    module.load_state_dict(read_own_tensors(folder / WEIGHTS_FILE))
    return BuiltDetector(module.eval(), config)


def fresh_module(config: DetectorConfig) -> nn.Module:
    """Returns the detector of a record with untrained weights."""
    if config.arch is None:
        return _on_torchvision(config, pretrained=False)
    options = Options(norm=config.norm, freeze_at=config.freeze_at)
    return _made(config, config.arch, options=options)


def norm_of(trainable_layers: int) -> str:
    """Returns the normalisation of a backbone of which so many layers train, see `Options`."""
    return "BN" if trainable_layers == 5 else "FrozenBN"


def check_numbers(size: int, trainable_layers: int | None) -> None:
    """Checks two arguments of `new_detector`.

    Raises:
        ValueError: one is out of range.
    """
    if isinstance(size, bool) or size < 32:
        raise ValueError(f"size is {size!r}; expected a number of pixels from 32")
    if trainable_layers is not None and trainable_layers not in range(6):
        raise ValueError(f"trainable_layers is {trainable_layers!r}; expected 0 to 5")


class TorchDetector:
    """A `Detector` that runs a torchvision detector; thread-safe.

    Args:
        built: the detector; put into evaluation mode.
        device: where it runs; it is moved there.

    Raises:
        ValueError: its weights are not float32; torchvision suppresses boxes in no bfloat16.
    """

    def __init__(self, built: BuiltDetector, device: torch.device | str = "cpu") -> None:
        halved = {p.dtype for p in built.module.parameters()} - {torch.float32}
        if halved:
            raise ValueError(
                f"the detector's weights are {halved.pop()}; expected torch.float32, as "
                "torchvision's boxes need it: call .float(), and run it under torch.autocast"
            )
        self.config = built.config
        self.module = built.module.to(device).eval()
        self._device = device

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label from 1."""
        return self.config.class_names

    def __call__(self, source: ImageSource) -> Detections:
        """Returns the objects in an image.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the image cannot be read.
        """
        pixels = torch.from_numpy(np.array(open_image(source))).to(self._device)
        with torch.inference_mode():
            (found,) = self.module([pixels.permute(2, 0, 1).float() / 255])
        # Under autocast they may be bfloat16, which NumPy does not have.
        boxes, scores = (found[key].float().cpu().numpy() for key in ("boxes", "scores"))
        return Detections(boxes, found["labels"].cpu().numpy(), scores, self.class_names)
