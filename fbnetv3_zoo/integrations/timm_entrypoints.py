"""Registers our models in timm.

    fbnetv3.register_timm()
    timm.create_model("meta_fbnetv3_e", pretrained=True)

The seven official models are `meta_fbnetv3_a` to `meta_fbnetv3_g`. `fbnetv3_a`, `c`, `e` and `f`,
which timm does not use, are aliases. `same_fbnetv3_a` to `same_fbnetv3_g` are the same models
padded so that maps halve exactly, which feature pyramids and U-Nets of other libraries expect;
every name takes `pad_type="same"` too. With the official weights they compute a slightly
different function, which fine-tuning corrects. The other architectures of this package, such as
`fbnetv3_nano`, have their own names and no weights here; a saved one loads from its folder,
`local-dir:FOLDER`, also as transformers' `TimmWrapper`. timm's own `fbnetv3_b`, `d` and `g` are
different models (same padding) and are kept. Weights come from `fbnetv3.hub`: verified, never
unpickled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    is_model,
    model_entrypoint,
    register_model,
)
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from fbnetv3.arch.arch import Arch
from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints import convert
from fbnetv3.checkpoints.training_checkpoint import find_weights
from fbnetv3.hub.cached_weights import CachedWeights
from fbnetv3.hub.pretrained import ANY
from fbnetv3.hub.pretrained_cfg import pretrained_cfg
from fbnetv3.hub.weights import WEIGHTS
from fbnetv3.models.features import ScriptedMaps
from fbnetv3.models.model import FBNetV3, build

_TAG = "meta_in1k"
OFFICIAL_NAMES = (
    *(f"meta_fbnetv3_{x}" for x in "abcdefg"),
    *(f"fbnetv3_{x}" for x in "acef"),
    *(f"same_fbnetv3_{x}" for x in "abcdefg"),
)
NAMES = (*OFFICIAL_NAMES, *(name for name in ARCHS if f"{name}.{_TAG}" not in WEIGHTS))
# timm's `register_model` appends to it.
__all__: list[str] = []


def _zoo_name(name: str) -> str:
    return name.removeprefix("meta_").removeprefix("same_")


def _timm_cfg(name: str) -> dict[str, Any]:
    weights = WEIGHTS.get(f"{_zoo_name(name)}.{_TAG}")
    cfg = pretrained_cfg(name, weights.arch if weights else ARCHS[name], weights)
    # timm's registry adds these two itself.
    return {key: value for key, value in cfg.items() if key not in ("architecture", "tag")}


default_cfgs = generate_default_cfgs(
    {f"{name}.{_TAG}" if name in OFFICIAL_NAMES else name: _timm_cfg(name) for name in NAMES}
)


def register_timm(
    names: str | Iterable[str] | None = None, *, overwrite: bool = False
) -> tuple[str, ...]:
    """Registers our models for `timm.create_model`; a second call changes nothing.

    Args:
        names: names from `NAMES`; None for all that are not registered by other code.
        overwrite: also replace names that other code has registered. timm's own `fbnetv3_b`, `d`
            and `g` are not in `NAMES` and never replaced.

    Returns:
        The requested names under which timm now creates our models.

    Raises:
        ValueError: a name is not in `NAMES`, or is registered by other code.
    """
    if not is_model(ANY):
        _create_saved.__name__ = _create_saved.__qualname__ = ANY
        register_model(_create_saved)
    asked = NAMES if names is None else (names,) if isinstance(names, str) else tuple(names)
    for name in asked:
        if name not in NAMES:
            raise ValueError(f"name is {name!r}; expected some of {', '.join(NAMES)}")
    ours = []
    for name in asked:
        if not is_model(name):
            register_model(_entrypoint(name))
        elif model_entrypoint(name).__module__ != __name__:
            if overwrite:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # timm warns about the requested overwriting
                    register_model(_entrypoint(name))
            elif names is None:
                continue
            else:
                raise ValueError(
                    f"{name!r} is registered in timm by {model_entrypoint(name).__module__}; give "
                    "overwrite=True to replace it, or use the name that begins with 'meta_'"
                )
        ours.append(name)
    return tuple(ours)


def checkpoint_filter_fn(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Converts a state dict from any of the three layouts to ours; timm calls it on loading."""
    if not isinstance(model, FBNetV3):
        raise ValueError(f"model is a {type(model).__name__}; expected FBNetV3")
    named, _ = find_weights(state)
    return convert.to_fbnetv3(named, model.arch, convert.detect_dialect(named))


class _FeatureNet(FeatureGetterNet):
    """What timm makes of `features_only=True`, with what its other feature networks can do."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the rows in the backward pass."""
        self.model.set_grad_checkpointing(enable)  # type: ignore[operator]  # ours

    def __prepare_scriptable__(self) -> nn.Module:
        """Returns what `torch.jit.script` compiles in its place, as it cannot the getter."""
        model: Any = self.model
        depths = self.feature_info.get_dicts(["stage"])
        return ScriptedMaps(
            model.stem, model.stages, [one["stage"] for one in depths], training=self.training
        )


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(name, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__module__ = __name__
    entrypoint.__doc__ = f"Returns {_zoo_name(name)}, as `fbnetv3.create` does."
    return entrypoint


def _create(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    pad_type = kwargs.pop("pad_type", None) or ("same" if name.startswith("same_") else "")
    arch = ARCHS[_zoo_name(name)].with_pad_type(pad_type)
    weights = WEIGHTS.get(f"{_zoo_name(name)}.{_TAG}")
    overlay = dict(kwargs.pop("pretrained_cfg_overlay", None) or {})
    given = kwargs.get("pretrained_cfg")
    own = _is_ours(given) and not {"file", "url", "hf_hub_id", "state_dict"} & set(overlay)
    if pretrained and own and weights is not None:
        cached = CachedWeights(weights, cache_dir=kwargs.get("cache_dir"))
        overlay["state_dict"] = cached.tensors()

    model = _build(arch, name, pretrained, pretrained_cfg_overlay=overlay or None, **kwargs)
    model.pretrained_cfg.pop("state_dict", None)  # type: ignore[union-attr,operator]  # timm's dict
    return model


def _create_saved(
    pretrained: bool = False, arch: Mapping[str, Any] | None = None, **kwargs: Any
) -> nn.Module:
    """Returns a saved model whose architecture has no name, such as a small-image variant."""
    if arch is None:
        raise ValueError(
            f"{ANY!r} stands for models saved by fbnetv3.save_pretrained; give "
            "'local-dir:FOLDER' or 'hf-hub:ORG/REPO', or a name such as 'meta_fbnetv3_a'"
        )
    return _build(Arch.from_dict(arch), ANY, pretrained, **kwargs)


def _build(arch: Arch, name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    def make(**model_args: Any) -> FBNetV3:
        return build(arch, **model_args)

    model: nn.Module = build_model_with_cfg(
        make,
        name,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        # Flattened for timm's other feature classes, which expect the rows at the top level.
        feature_cfg={"feature_cls": _FeatureNet, "flatten_sequential": True},
        **kwargs,
    )
    return model


def _is_ours(given: Any) -> bool:
    """Whether the official weights are requested, not a file of the caller."""
    if given is None or isinstance(given, str):
        return given in (None, _TAG)
    fields = given if isinstance(given, Mapping) else vars(given)
    other = ("file", "hf_hub_id", "state_dict")
    return fields.get("tag") == _TAG and not any(fields.get(key) for key in other)
