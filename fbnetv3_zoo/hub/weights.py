"""Records of pretrained weights: source, preprocessing, licence, accuracy and who measured it.

Nothing here reads or fetches a file; `cached_weights` does. Accuracies were published by those
named in `evaluated_by` and not measured by this project unless it says so.

Sources: URLs, resize, resolution and accuracies of the official models are those published with
them (mobile-vision, 2020-12-01); timm's are on the hub pages of its three repositories, and the
files of its release are those of `timm.models.get_pretrained_cfg`. Of the downloaded weights nobody
publishes a whole SHA-256.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fbnetv3.arch.arch import Arch
from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.convert import Dialect
from fbnetv3.images.preprocess import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocess,
)

from .confidence import Confidence
from .license_policy import is_commercial

OFFICIAL_HOST = "https://dl.fbaipublicfiles.com"
# Environment variable with an address that takes the place of the official host.
MIRROR = "FBNETV3_MIRROR"
_TIMM_RELEASE = "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights"


@dataclass(frozen=True, kw_only=True)
class Url:
    """A file at a URL.

    Attributes:
        url: its address.
        sha256: the published hash, or its first digits if only these are published; None if no
            hash is published. The hash of the first download is then recorded.
    """

    url: str
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file in a Hugging Face repository.

    A revision that is not a commit, such as "main", is pinned on first use: the commit and hash of
    the first download are recorded, and later downloads use that commit.
    """

    repo: str
    filename: str
    revision: str
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A file in this package's `data/`."""

    filename: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A set of pretrained weights.

    Attributes:
        model: name in `tables.ARCHS`.
        tag: distinguishes weights of the same model.
        source: location of the file.
        dialect: state-dict layout of the file.
        variant: variant of the architecture: as published, with padding kernel // 2, or for small
            images.
        num_classes: number of classes.
        labels: class list in `data/`, such as "imagenet1k".
        preprocess: preprocessing of images.
        license: SPDX name.
        license_url: URL of the licence text.
        origin: page where the weights were published.
        top1_pct: top-1 accuracy in percent on the data set of `labels`, at `preprocess`.
        top5_pct: top-5 accuracy in percent, None where none was published.
        evaluated_by: who measured the accuracy.
        second: the same weights at another address, in the same layout; None if there are none.
        confidence: temperature and threshold of their answers; None if nobody fitted them.
    """

    model: str
    tag: str
    source: Url | HubFile | Embedded
    dialect: Dialect
    variant: Literal["published", "same_padding", "small_image"]
    num_classes: int
    labels: str
    preprocess: Preprocess
    license: str
    license_url: str
    origin: str
    top1_pct: float
    top5_pct: float | None
    evaluated_by: str
    second: Url | None = None
    confidence: Confidence | None = None

    @property
    def hash_origin(self) -> str:
        """Who states the SHA-256 of the file."""
        if isinstance(self.source, Embedded):
            return "stated in the package"
        if self.source.sha256:
            return "published"
        other = "the hub states it" if isinstance(self.source, HubFile) else "not published"
        if self.second is not None:
            other += f"; of the second source {self.second.sha256}... is published"
        return f"recorded at first use ({other})"

    @property
    def name(self) -> str:
        """The full name, `model.tag`."""
        return f"{self.model}.{self.tag}"

    @property
    def commercial(self) -> bool:
        """Whether the licence is known to allow commercial use."""
        return is_commercial(self.license)

    @property
    def arch(self) -> Arch:
        """The architecture of these weights."""
        arch = ARCHS[self.model]
        if self.variant == "same_padding":
            return arch.same_padding()
        if self.variant == "small_image":
            return arch.small_image(self.preprocess.crop)
        return arch


def _official(model: str, job: str, resize: int, top1_pct: float, top5_pct: float) -> Weights:
    return Weights(
        model=model,
        tag="meta_in1k",
        source=Url(
            url=f"{OFFICIAL_HOST}/fbnet/models/20201201/GtOtfw/"
            f"FBNetV3_{model[-1].upper()}_{job}/model.pth"
        ),
        dialect="official",
        variant="published",
        num_classes=1000,
        labels="imagenet1k",
        preprocess=_imagenet(resize, ARCHS[model].resolution),
        license="CC-BY-NC-4.0",
        license_url="https://creativecommons.org/licenses/by-nc/4.0/",
        origin="https://github.com/facebookresearch/mobile-vision",
        top1_pct=top1_pct,
        top5_pct=top5_pct,
        evaluated_by="Meta",
    )


def _timm(model: str, resize: int, crop: int, top1_pct: float, second: str) -> Weights:
    # torch.hub's convention, which timm checks: the file's name ends in the hash's first digits.
    digits = second.rpartition("-")[2].removesuffix(".pth")
    repo = f"timm/{model}.ra2_in1k"
    return Weights(
        model=model,
        tag="ra2_in1k",
        # Without a commit: the first download pins it.
        source=HubFile(repo=repo, filename="model.safetensors", revision="main"),
        dialect="timm",
        variant="same_padding",
        num_classes=1000,
        labels="imagenet1k",
        preprocess=_imagenet(resize, crop),
        license="Apache-2.0",
        license_url="https://www.apache.org/licenses/LICENSE-2.0",
        origin=f"https://huggingface.co/{repo}",
        top1_pct=top1_pct,
        top5_pct=None,
        evaluated_by="timm",
        second=Url(url=f"{_TIMM_RELEASE}/{second}", sha256=digits),
    )


def _cifar10(
    model: str,
    sha256: str,
    top1_pct: float,
    top5_pct: float,
    *,
    variant: Literal["published", "small_image"] = "small_image",
    resolution: int = 32,
    confidence: Confidence | None = None,
) -> Weights:
    name = f"{model}.cifar10"
    return Weights(
        model=model,
        tag="cifar10",
        source=Embedded(filename=f"{name}.safetensors", sha256=sha256),
        dialect="fbnetv3",
        variant=variant,
        num_classes=10,
        labels="cifar10",
        preprocess=Preprocess(
            resize=resolution,
            crop=resolution,
            interpolation="bilinear",
            mean=CIFAR10_MEAN,
            std=CIFAR10_STD,
        ),
        license="Apache-2.0",
        license_url="https://www.apache.org/licenses/LICENSE-2.0",
        origin="trained by this project, inside the package",
        top1_pct=top1_pct,
        top5_pct=top5_pct,
        evaluated_by="fbnetv3-zoo",
        confidence=confidence,
    )


def _fitted(
    temperature: float, threshold: float, true_accept_pct: float, false_accept_pct: float
) -> Confidence:
    """Returns what benchmarks/release/confidence.py fitted: benchmarks/results/confidence*.json."""
    return Confidence(
        temperature=temperature,
        threshold=threshold,
        true_accept_pct=true_accept_pct,
        false_accept_pct=false_accept_pct,
        num_images=5000,
    )


def _imagenet(resize: int, crop: int) -> Preprocess:
    return Preprocess(
        resize=resize,
        crop=crop,
        interpolation="bilinear",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


WEIGHTS: dict[str, Weights] = {
    weights.name: weights
    for weights in (
        # model, job, resize, top-1, top-5; at the architecture's resolution
        _official("fbnetv3_a", "f235707940", 242, 79.574, 94.712),
        _official("fbnetv3_b", "f233607847", 266, 80.206, 94.944),
        _official("fbnetv3_c", "f234529537", 272, 80.826, 95.286),
        _official("fbnetv3_d", "f231225742", 277, 81.042, 95.436),
        _official("fbnetv3_e", "f230158956", 291, 81.254, 95.488),
        _official("fbnetv3_f", "f230161092", 296, 82.062, 95.874),
        _official("fbnetv3_g", "f226438997", 325, 82.794, 96.3),
        # model, resize = floor(crop / 0.95), crop, top-1; larger than the training resolution; file
        # of timm's release
        _timm("fbnetv3_b", 269, 256, 79.154, "fbnetv3_b_224-ead5d2a1.pth"),
        _timm("fbnetv3_d", 269, 256, 79.682, "fbnetv3_d_224-c98bce42.pth"),
        _timm("fbnetv3_g", 303, 288, 82.034, "fbnetv3_g_240-0b1df83b.pth"),
        # model, SHA-256, top-1, top-5 on the test set: `fbnetv3 eval NAME --data CIFAR10`
        _cifar10(
            "fbnetv3_a",
            "7227cb25895cf16bd0bd09255fce1f72dd25529321717e37cda02999be2251e8",
            93.94,
            99.82,
            resolution=48,
            confidence=_fitted(0.7201, 4.0252, 80.04, 20.22),
        ),
        _cifar10(
            "fbnetv3_nano",
            "274b7380374cdd6d37b8a63e0869f56ac338615e352688af4fa2b3fc24727a1b",
            91.45,
            99.68,
            confidence=_fitted(0.7481, 3.959, 76.3, 20.22),
        ),
        _cifar10(
            "nars_cifar_s",
            "58da2970d04c8ad0379b9c1a7b82a1e8bd20a1d8d587911101f9380bf802e9b8",
            83.01,
            99.16,
            variant="published",
            confidence=_fitted(0.9933, 5.4843, 71.9, 20.22),
        ),
        _cifar10(
            "nars_cifar_m",
            "9068b0adfbf267df7fb0f905e7af9aed3793a3fc6a13f8750cb3751a6bd2aeb5",
            84.12,
            99.39,
            variant="published",
            confidence=_fitted(0.9742, 5.3782, 75.58, 20.22),
        ),
        _cifar10(
            "nars_cifar_l",
            "748359a610311e3c38e48b81212d57f54ac6324de37ceeac9edfc65ece34a648",
            84.85,
            99.45,
            variant="published",
            confidence=_fitted(0.9627, 5.6673, 73.66, 20.22),
        ),
    )
}
