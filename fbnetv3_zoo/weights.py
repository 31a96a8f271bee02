"""Trained weights as records: what they are, where they lie, who measured them, their licence.

Nothing here reads or fetches a file: `hub` does. Accuracies were published by the owners named in
`evaluated_by` and were not measured again by us unless it says so.

Sources: the official networks' addresses, resize, resolution and accuracies are those published
with them (mobile-vision, 2020-12-01); timm's are on the hub pages of the three repositories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .arch import Arch
from .preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from .tables import ARCHS

Dialect = Literal["official", "timm", "fbnetv3"]
# Licences that forbid commercial use; every other SPDX name in the table allows it.
NON_COMMERCIAL = frozenset({"CC-BY-NC-4.0"})


@dataclass(frozen=True, kw_only=True)
class Url:
    """A file at a plain address."""

    url: str
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file in a Hugging Face repository, at a fixed revision."""

    repo: str
    filename: str
    revision: str
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A file inside this package, in `data/`."""

    filename: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One trained set of weights.

    Attributes:
        model: name in `tables.ARCHS`.
        tag: what distinguishes it from other weights of the same model.
        source: where the file lies.
        dialect: whose state-dict layout the file has.
        variant: how the table is changed before it is built: as published, with padding
            kernel // 2, or for small images.
        num_classes: logits.
        labels: class list in `data/`, such as "imagenet1k".
        preprocess: what an image goes through before this network.
        license: SPDX name.
        license_url: where the licence's text is.
        origin: page that published the weights.
        top1_pct: top-1 accuracy in percent on the data set of `labels`, at `preprocess`.
        top5_pct: top-5 accuracy in percent, None where none was published.
        evaluated_by: who measured the accuracy.
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

    @property
    def name(self) -> str:
        """The full name, `model.tag`."""
        return f"{self.model}.{self.tag}"

    @property
    def commercial(self) -> bool:
        """Whether the licence allows commercial use."""
        return self.license not in NON_COMMERCIAL

    @property
    def arch(self) -> Arch:
        """The table that these weights fit."""
        arch = ARCHS[self.model]
        if self.variant == "same_padding":
            return arch.same_padding()
        return arch.small_image() if self.variant == "small_image" else arch


def _official(model: str, job: str, resize: int, top1_pct: float, top5_pct: float) -> Weights:
    return Weights(
        model=model,
        tag="meta_in1k",
        source=Url(
            url="https://dl.fbaipublicfiles.com/fbnet/models/20201201/GtOtfw/"
            f"FBNetV3_{model[-1].upper()}_{job}/model.pth"
        ),
        dialect="official",
        variant="published",
        num_classes=1000,
        labels="imagenet1k",
        preprocess=Preprocess(
            resize=resize,
            crop=ARCHS[model].resolution,
            interpolation="bilinear",
            antialias=True,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        license="CC-BY-NC-4.0",
        license_url="https://creativecommons.org/licenses/by-nc/4.0/",
        origin="https://github.com/facebookresearch/mobile-vision",
        top1_pct=top1_pct,
        top5_pct=top5_pct,
        evaluated_by="Meta",
    )
