"""`create`: what it was given, turned into an architecture and its tensors, and into a network."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from fbnetv3.arch.arch import Arch
from fbnetv3.checkpoints.checkpoint import read_tensors
from fbnetv3.checkpoints.convert import detect_dialect, to_fbnetv3
from fbnetv3.models.features import FeaturePyramid
from fbnetv3.models.model import FBNetV3, build

from .arch_file import read_arch
from .cached_weights import CachedWeights
from .license_policy import check_terms
from .loading import build_from_state
from .pretrained import read_pretrained
from .pretrained_cfg import pretrained_cfg
from .registry import FOLDERS, get_arch, get_weights
from .weights import WEIGHTS

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@overload
def create(
    model: str | Arch | Path,
    pretrained: bool = False,
    *,
    features_only: Literal[False] = False,
    **kwargs: Any,
) -> FBNetV3: ...


@overload
def create(
    model: str | Arch | Path,
    pretrained: bool = False,
    *,
    features_only: Literal[True],
    **kwargs: Any,
) -> FeaturePyramid: ...


def create(
    model: str | Arch | Path,
    pretrained: bool = False,
    *,
    checkpoint: str | Path | None = None,
    license: str | None = None,
    cache_dir: str | Path | None = None,
    offline: bool | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    feature_cls: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> FBNetV3 | FeaturePyramid:
    """Returns a model, with trained weights where asked.

    Args:
        model: a name (`fbnetv3_e`, `fbnetv3_e.meta_in1k`), a table, the path or https address of
            an architecture's JSON, `hf-hub:org/repo@revision`, or `local-dir:path`.
        pretrained: load the weights that belong to the name. Official weights are for
            non-commercial use.
        checkpoint: file of weights to load instead, in our, the official or timm's layout.
        license: "commercial" refuses weights that forbid it; also by FBNETV3_LICENSE.
        cache_dir: where fetched weights lie, in place of the usual cache.
        offline: never reach for the network; also by FBNETV3_OFFLINE or HF_HUB_OFFLINE.
        features_only: return the feature maps (a `FeaturePyramid`) in place of logits.
        out_indices: which feature maps: the last n, a list, None for all.
        feature_cls: "list" or "dict", what a `FeaturePyramid` returns.
        device: where the model goes.
        dtype: type of its parameters.
        **kwargs: those of `FBNetV3`: `num_classes`, `in_chans`, `drop_rate`, `drop_path_rate`,
            `global_pool`, `output_stride`, `norm_layer`, `act_layer`, ... None means the default.

    Raises:
        ValueError: the name is unknown, an argument is out of range, weights do not fit, or the
            licence policy refuses them.
        FileNotFoundError: a path does not exist, or weights cannot be fetched.
    """
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    if kwargs.pop("pad_type", ""):
        raise ValueError("pad_type is not supported; create get_arch(name).same_padding() instead")
    if pretrained and checkpoint is not None:
        raise ValueError("pretrained=True and checkpoint= exclude each other; give one of them")
    if out_indices is not None and not features_only:
        raise ValueError(f"out_indices is {out_indices!r}; it needs features_only=True")
    if feature_cls not in (None, "list", "dict"):
        raise ValueError(f"feature_cls is {feature_cls!r}; expected 'list' or 'dict'")
    found = resolve(model, pretrained, license=license, cache_dir=cache_dir, offline=offline)
    if checkpoint is not None:
        found = with_checkpoint(found, Path(checkpoint))
    made = build_source(found, device=device, dtype=dtype, **kwargs)
    if not features_only:
        return made
    return FeaturePyramid(made, out_indices, as_dict=feature_cls == "dict")


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
        return to_fbnetv3(tensors, source.arch, detect_dialect(tensors))

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
    record = get_weights(name)
    weights = CachedWeights(record, cache_dir=cache_dir, offline=offline)
    cfg = pretrained_cfg(record.model, weights.arch, record)
    if not pretrained:
        return Source(weights.name, weights.arch, {"num_classes": record.num_classes}, cfg)
    load = functools.partial(weights.tensors, license=license)
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
        check_terms(place, found.license, license)
    return Source(
        place,
        found.arch,
        found.model_args,
        found.pretrained_cfg,
        load=(lambda: found.state) if pretrained else None,
    )
