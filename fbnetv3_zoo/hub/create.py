"""`create`: finds the architecture and weights that a name or path stands for, builds the model."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from fbnetv3._internal.arguments import names_of, refuse_unknown
from fbnetv3.arch.arch import Arch
from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.checkpoint import read_checkpoint
from fbnetv3.checkpoints.convert import Dialect, detect_dialect, to_fbnetv3
from fbnetv3.models.features import FeaturePyramid
from fbnetv3.models.model import FBNetV3, build

from .arch_file import read_arch
from .cached_weights import CachedWeights
from .file_license import PERHAPS_OFFICIAL, license_of_file
from .license_policy import check_terms, effective_policy
from .loading import build_from_state, fitting
from .pretrained import CONFIG, read_pretrained
from .pretrained_cfg import pretrained_cfg
from .registry import FOLDERS, file_hint, get_arch, get_weights
from .weights import WEIGHTS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Checkpoints of which it was said what was taken.
_said: set[Path] = set()


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
    """Returns a model, with pretrained weights if asked for.

    Args:
        model: a name (`fbnetv3_e`, `fbnetv3_e.meta_in1k`), an `Arch`, the path or https URL of an
            architecture's JSON, `hf-hub:org/repo@revision`, or `local-dir:path`.
        pretrained: load the pretrained weights of the name. Official weights are for
            non-commercial use only.
        checkpoint: file of weights to load instead, in the official layout, timm's or ours.
        license: "commercial" refuses weights that forbid commercial use; None reads
            FBNETV3_LICENSE.
        cache_dir: folder for downloaded weights instead of the default cache.
        offline: do not use the network; None reads FBNETV3_OFFLINE or HF_HUB_OFFLINE.
        features_only: return a `FeaturePyramid`, which outputs feature maps instead of logits.
        out_indices: which feature maps: the last n, a list of indices, or None for all.
        feature_cls: "list" or "dict", the output type of the `FeaturePyramid`.
        device: device of the parameters.
        dtype: floating-point type of the parameters.
        **kwargs: arguments of `FBNetV3`: `num_classes`, `in_chans`, `drop_rate`, `drop_path_rate`,
            `global_pool`, `output_stride`, `norm_layer`, `act_layer`, ... None means the default.
            As in timm, `pad_type="same"` pads so that maps halve exactly.

    Raises:
        ValueError: the name is unknown, an argument is out of range, weights do not fit, or the
            licence policy refuses them.
        TypeError: an argument is unknown.
        FileNotFoundError: a path does not exist, or weights cannot be fetched.
    """
    if kwargs:
        taken = names_of(create, FBNetV3, build) - {"arch"} | {"pad_type"}
        refuse_unknown(kwargs, taken, "fbnetv3.create and FBNetV3")
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    pad_type = kwargs.pop("pad_type", "")
    if pretrained and checkpoint is not None:
        raise ValueError("pretrained=True and checkpoint= exclude each other; give one of them")
    if out_indices is not None and not features_only:
        raise ValueError(f"out_indices is {out_indices!r}; it needs features_only=True")
    if feature_cls not in (None, "list", "dict"):
        raise ValueError(f"feature_cls is {feature_cls!r}; expected 'list' or 'dict'")
    found = resolve(model, pretrained, license=license, cache_dir=cache_dir, offline=offline)
    if checkpoint is not None:
        found = with_checkpoint(found, Path(checkpoint), license=license)
    found = dataclasses.replace(found, arch=found.arch.with_pad_type(pad_type))
    made = build_source(found, device=device, dtype=dtype, **kwargs)
    if not features_only:
        return made
    return FeaturePyramid(made, out_indices, as_dict=feature_cls == "dict")


@dataclass(frozen=True)
class Source:
    """An architecture, and how to load its weights if any are wanted.

    Attributes:
        name: what the caller asked for, for error messages.
        arch: the architecture.
        model_args: default arguments of `build`.
        cfg: timm's `pretrained_cfg`.
        load: reads the tensors in our layout; None for randomly initialised weights.
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
    """Returns the source that `model` stands for; arguments and errors as in `create`."""
    effective_policy(license)  # also a policy that no weights are held to may be misspelled
    if isinstance(model, Arch):
        return _untrained("an Arch", model, pretrained)
    if not isinstance(model, str | Path):
        raise ValueError(
            f"model is a {type(model).__name__}; expected a name, an Arch, or the path of an "
            "architecture's JSON"
        )
    if isinstance(model, Path) or model.endswith(".json"):
        return _untrained(str(model), read_arch(str(model), offline=offline), pretrained)
    if model.startswith(FOLDERS):
        return _saved(model, pretrained, license, cache_dir, offline)
    if "/" in model or "\\" in model:
        if hint := file_hint(model):
            raise ValueError(f"model is {model!r}{hint}")
        folder = next((p for p in (Path(model), Path(model).parent) if (p / CONFIG).exists()), None)
        raise ValueError(
            f"model is {model!r}; expected a name, or a path that ends in .json, or "
            "'local-dir:PATH', or 'hf-hub:ORG/REPO'"
            + (f"; did you mean 'local-dir:{folder}'?" if folder else "")
        )
    return _named(model, pretrained, license, cache_dir, offline)


def with_checkpoint(source: Source, path: Path, *, license: str | None) -> Source:
    """Returns `source` with its weights replaced by a file in any of the three layouts.

    Args:
        source: the architecture.
        path: a checkpoint.
        license: the licence policy, as in `create`. Of a pickle the licence is known only if it
            is a copy of one that was downloaded.

    Raises:
        ValueError: the licence is refused.
        FileNotFoundError: the file does not exist.
    """
    stated = license_of_file(path)
    check_terms(str(path), stated, license)

    def load() -> dict[str, Tensor]:
        tensors, taken = read_checkpoint(path)
        dialect = detect_dialect(tensors)
        remarks = [str(taken), PERHAPS_OFFICIAL if dialect == "official" and not stated else ""]
        if any(remarks) and path not in _said:
            _said.add(path)
            warnings.warn(f"{path}: {'. '.join(filter(None, remarks))}", stacklevel=3)
        try:
            return to_fbnetv3(tensors, source.arch, dialect)
        except ValueError as error:
            raise ValueError(f"{path}: {error}{_hint(tensors, dialect, source.arch)}") from error

    cfg = source.cfg or pretrained_cfg(source.name, source.arch, None)
    if stated:
        cfg = cfg | {"license": stated}
    return dataclasses.replace(source, name=str(path), cfg=cfg, load=load)


def build_source(source: Source, **kwargs: Any) -> FBNetV3:
    """Returns the model of a source; `kwargs` are arguments of `build`."""
    kwargs = source.model_args | kwargs
    if source.load is None:
        model = build(source.arch, **kwargs)
    else:
        state = source.load()
        try:
            model = build_from_state(source.arch, state, source=source.name, **kwargs)
        except ValueError as error:
            raise ValueError(f"{error}{_hint(state, 'fbnetv3', source.arch)}") from error
    cfg = source.cfg or pretrained_cfg(source.name, source.arch, None)
    model.pretrained_cfg = model.default_cfg = cfg | {"num_classes": model.num_classes}
    return model


def _hint(tensors: Mapping[str, Tensor], dialect: Dialect, arch: Arch) -> str:
    """Returns a sentence about the architectures that tensors fit, "" if they fit `arch`."""
    if fitting(tensors, dialect, {"": arch}):
        return ""
    names = fitting(tensors, dialect, ARCHS)
    return f". These are weights of {' or '.join(names)}" if names else ""


def _untrained(name: str, arch: Arch, pretrained: bool) -> Source:
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
    record = get_weights(name, license=license)
    weights = CachedWeights(record, cache_dir=cache_dir, offline=offline)
    cfg = pretrained_cfg(record.model, weights.arch, record)
    if not pretrained:
        return Source(weights.name, weights.arch, {"num_classes": record.num_classes}, cfg)
    load = functools.partial(weights.tensors, license=license)
    return Source(weights.name, weights.arch, cfg=cfg, load=load)


def _saved(
    location: str,
    pretrained: bool,
    license: str | None,
    cache_dir: str | Path | None,
    offline: bool | None,
) -> Source:
    found = read_pretrained(location, cache_dir=cache_dir, offline=offline)
    if pretrained:
        check_terms(location, found.license, license)
    return Source(
        location,
        found.arch,
        found.model_args,
        found.pretrained_cfg,
        load=(lambda: found.state) if pretrained else None,
    )
