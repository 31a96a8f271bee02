"""Where a model comes from: what `create` was given, turned into a table and its tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbnetv3.arch.arch import Arch
from fbnetv3.checkpoints import convert
from fbnetv3.checkpoints.checkpoint import read_tensors
from fbnetv3.models.model import FBNetV3, build

from . import cached_weights as hub
from . import license_policy
from .arch_file import read_arch
from .loading import build_from_state
from .pretrained import read_pretrained
from .pretrained_cfg import pretrained_cfg
from .registry import FOLDERS, get_arch, get_weights
from .weights import WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Source:
    """A table, and where its tensors are found if any are wanted.

    Attributes:
        name: what the caller asked for, for errors.
        arch: the table.
        model_args: arguments of `build` where the caller does not say.
        cfg: timm's `pretrained_cfg`.
        load: reads the tensors in our layout; None for fresh weights.
    """

    name: str
    arch: Arch
    model_args: dict[str, Any] = field(default_factory=dict)
    cfg: dict[str, Any] = field(default_factory=dict)
    load: Callable[[], dict[str, Tensor]] | None = None


def resolve(
    model: str | Arch | Path,
    pretrained: bool,
    *,
    license: str | None,
    cache_dir: str | Path | None,
    offline: bool | None,
) -> Source:
    """Returns the source of what `create` was given; see there for the forms and errors."""
    if isinstance(model, Arch):
        return _fresh("an Arch", model, pretrained)
    if not isinstance(model, str | Path):
        raise ValueError(
            f"model is a {type(model).__name__}; expected a name, an Arch, or the path of an "
            "architecture's JSON"
        )
    if isinstance(model, Path) or model.endswith(".json"):
        return _fresh(str(model), read_arch(str(model), offline=offline), pretrained)
    if model.startswith(FOLDERS):
        return _published(model, pretrained, license, cache_dir, offline)
    if "/" in model or "\\" in model:
        raise ValueError(
            f"model is {model!r}; expected a name, or a path that ends in .json, or "
            "'local-dir:PATH', or 'hf-hub:ORG/REPO'"
        )
    return _named(model, pretrained, license, cache_dir, offline)


def with_checkpoint(source: Source, path: Path) -> Source:
    """Returns `source` with its tensors read from a file in any of the three layouts."""

    def load() -> dict[str, Tensor]:
        tensors = read_tensors(path)
        return convert.to_fbnetv3(tensors, source.arch, convert.detect_dialect(tensors))

    return dataclasses.replace(source, name=str(path), load=load)


def build_source(source: Source, **kwargs: Any) -> FBNetV3:
    """Returns the model of a source; `kwargs` are those of `build`."""
    kwargs = source.model_args | kwargs
    if source.load is None:
        model = build(source.arch, **kwargs)
    else:
        model = build_from_state(source.arch, source.load(), source=source.name, **kwargs)
    cfg = source.cfg or pretrained_cfg(source.name, source.arch, None)
    model.pretrained_cfg = model.default_cfg = cfg | {"num_classes": model.num_classes}
    return model


def _fresh(name: str, arch: Arch, pretrained: bool) -> Source:
    if pretrained:
        raise ValueError(f"{name} has no pretrained weights; give checkpoint= or a model's name")
    return Source(name, arch)


def _named(
    name: str,
    pretrained: bool,
    license: str | None,
    cache_dir: str | Path | None,
    offline: bool | None,
) -> Source:
    if not pretrained and name not in WEIGHTS:
        arch = get_arch(name)
        return Source(name, arch, cfg=pretrained_cfg(name, arch, None))
    weights = get_weights(name)
    cfg = pretrained_cfg(weights.model, weights.arch, weights)
    if not pretrained:
        return Source(weights.name, weights.arch, {"num_classes": weights.num_classes}, cfg)

    def load() -> dict[str, Tensor]:
        return hub.load_state(weights, cache_dir=cache_dir, offline=offline, policy=license)

    return Source(weights.name, weights.arch, cfg=cfg, load=load)


def _published(
    place: str,
    pretrained: bool,
    license: str | None,
    cache_dir: str | Path | None,
    offline: bool | None,
) -> Source:
    found = read_pretrained(place, cache_dir=cache_dir, offline=offline)
    if pretrained:
        license_policy.check_terms(place, found.license, license)
    return Source(
        place,
        found.arch,
        found.model_args,
        found.pretrained_cfg,
        load=(lambda: found.state) if pretrained else None,
    )
