"""Conversion of state dicts between the official layout, timm's and ours.

Tensors are renamed and otherwise unchanged, with two exceptions:

* The classifier is a 1x1 convolution in the official layout, a linear layer in timm's and ours.
* timm's stem has no bias. Converting to timm folds the bias into the following batch-norm, which is
  exact up to one rounding of the running mean; converting from timm sets it to zero.

The other two layouts have names for architectures with six or seven rows of inverted residuals (the
nine published ones, their variants and searched ones of that form). timm's layout also expects a
first row without expansion, and depthwise convolutions. Other architectures exist in our layout
only.

timm uses padding kernel // 2 and its own strides. Where the architecture differs (the published A,
B, C, E and F), the names would match and the logits would be silently wrong, so `from_fbnetv3`
refuses to convert unless forced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from fbnetv3.arch.arch import Arch, Block

if TYPE_CHECKING:
    from torch import Tensor

Dialect = Literal["official", "timm", "fbnetv3"]

# The name of the stem's convolution identifies the layout.
_STEMS: dict[Dialect, str] = {
    "official": "backbone.stages.xif0_0.conv",
    "timm": "conv_stem",
    "fbnetv3": "stem.conv",
}
STEM_WEIGHTS = tuple(f"{stem}.weight" for stem in _STEMS.values())
# The stage of each row: the official layout merges rows of equal resolution, timm's the last two
# rows.
_STAGES: dict[Dialect, tuple[int, ...]] = {
    "official": (1, 2, 3, 4, 4, 5, 5),
    "timm": (0, 1, 2, 3, 4, 5, 5),
}
_TIMM_STRIDES = (1, 2, 2, 2, 1, 2, 1)

# Our name: their name.
_OFFICIAL_BLOCK = {
    "expand.conv": "pw.conv",
    "expand.bn": "pw.bn",
    "depthwise.conv": "dw.conv",
    "depthwise.bn": "dw.bn",
    "se.reduce": "se.se.0.conv",
    "se.expand": "se.se.1",
    "project.conv": "pwl.conv",
    "project.bn": "pwl.bn",
}
_OFFICIAL_ENDS = {
    "stem.conv": "backbone.stages.xif0_0.conv",
    "stem.bn": "backbone.stages.xif0_0.bn",
    "head.expand.conv": "backbone.stages.xif6_0.pw.conv",
    "head.expand.bn": "backbone.stages.xif6_0.pw.bn",
    "head.project": "backbone.stages.xif6_0.pwl.conv",
    "classifier": "head.conv",
}
_TIMM_BLOCK = {
    "expand.conv": "conv_pw",
    "expand.bn": "bn1",
    "depthwise.conv": "conv_dw",
    "depthwise.bn": "bn2",
    "se.reduce": "se.conv_reduce",
    "se.expand": "se.conv_expand",
    "project.conv": "conv_pwl",
    "project.bn": "bn3",
}
# In blocks without expansion timm names the projection conv_pw and numbers the norms from bn1.
_TIMM_FIRST_BLOCK = {
    "depthwise.conv": "conv_dw",
    "depthwise.bn": "bn1",
    "se.reduce": "se.conv_reduce",
    "se.expand": "se.conv_expand",
    "project.conv": "conv_pw",
    "project.bn": "bn2",
}
_TIMM_ENDS = {
    "stem.conv": "conv_stem",
    "stem.bn": "bn1",
    "head.expand.conv": "blocks.6.0.conv",
    "head.expand.bn": "blocks.6.0.bn1",
    "head.project": "conv_head",
    "classifier": "classifier",
}


def detect_dialect(keys: Iterable[str]) -> Dialect:
    """Returns the layout of a state dict, identified by the name of the stem's convolution.

    Raises:
        ValueError: it has none of the three layouts.
    """
    names = list(keys)
    for dialect, stem in _STEMS.items():
        if f"{stem}.weight" in names:
            return dialect
    raise ValueError(
        f"the state dict starts with {names[:3]}; expected an FBNetV3 in one of the layouts "
        f"{', '.join(f'{dialect} ({stem}.weight)' for dialect, stem in _STEMS.items())}"
    )


def module_names(arch: Arch, dialect: Dialect) -> dict[str, str]:
    """Returns our name -> name in `dialect` of every layer with tensors, from stem to classifier.

    Raises:
        ValueError: the layout cannot represent the architecture; the message says why.
    """
    _check_dialect(dialect)
    if len(arch.rows) not in (6, 7) or any(1 in row.kernel for row in arch.rows):
        raise ValueError(
            f"the {dialect} layout has no names for an architecture of {len(arch.rows)} rows; "
            "expected 6 or 7 rows of inverted residuals. Use the fbnetv3 layout instead"
        )
    ends = _OFFICIAL_ENDS if dialect == "official" else _TIMM_ENDS
    names = {ours: theirs for ours, theirs in ends.items() if ours.startswith("stem")}
    position = 0
    for block in arch.blocks():
        stages = _STAGES[dialect]
        new_row = block.index == 0
        if new_row and (block.row == 0 or stages[block.row] != stages[block.row - 1]):
            position = 0
        stage = stages[block.row]
        if dialect == "official":
            prefix, layers = f"backbone.stages.xif{stage}_{position}", _OFFICIAL_BLOCK
        else:
            prefix, layers = f"blocks.{stage}.{position}", _timm_layers(arch, block)
        for ours, theirs in layers.items():
            if _has(block, ours):
                names[f"stages.{block.row}.{block.index}.{ours}"] = f"{prefix}.{theirs}"
        position += 1
    return names | {ours: theirs for ours, theirs in ends.items() if ours not in names}


def to_fbnetv3(state: Mapping[str, Tensor], arch: Arch, dialect: Dialect) -> dict[str, Tensor]:
    """Returns the tensors under our names, for a model of `arch`.

    Missing tensors are not checked here; `checkpoint.load_strict` reports them.

    Args:
        state: tensors in the layout `dialect`.
        arch: the architecture; names do not depend on its paddings.
        dialect: layout of `state`, see `detect_dialect`.

    Raises:
        ValueError: a name does not exist for the architecture in that layout.
    """
    if dialect == "fbnetv3":
        return dict(state)
    names = {theirs: ours for ours, theirs in module_names(arch, dialect).items()}
    converted = _rename(state, names, dialect)
    weight = converted.get("classifier.weight")
    if dialect == "official" and weight is not None:
        converted["classifier.weight"] = weight.reshape(weight.shape[:2])
    stem = converted.get("stem.conv.weight")
    if dialect == "timm" and stem is not None:
        converted["stem.conv.bias"] = stem.new_zeros(stem.shape[0])
    return converted


def from_fbnetv3(
    state: Mapping[str, Tensor], arch: Arch, dialect: Dialect, *, force: bool = False
) -> dict[str, Tensor]:
    """Returns the tensors under the names of another layout.

    Args:
        state: tensors under our names.
        arch: their architecture.
        dialect: the layout to convert to.
        force: convert to timm's layout even if timm would compute a different function.

    Raises:
        ValueError: the layout cannot represent the architecture, a name does not exist, or timm
            would compute a different function and `force` is not set.
    """
    if dialect == "fbnetv3":
        return dict(state)
    names = module_names(arch, dialect)
    if dialect == "timm" and not force:
        _check_same_function(arch)
    tensors = _fold_stem_bias(state) if dialect == "timm" else state
    converted = _rename(tensors, names, "fbnetv3")
    weight = converted.get("head.conv.weight")
    if dialect == "official" and weight is not None:
        converted["head.conv.weight"] = weight.reshape(*weight.shape, 1, 1)
    return converted


def _check_dialect(dialect: str) -> None:
    if dialect not in _STAGES:
        raise ValueError(f"the layout is {dialect!r}; expected official, timm or fbnetv3")


def _has(block: Block, layer: str) -> bool:
    if layer.startswith("expand"):
        return block.has_expand
    return block.se_channels > 0 or not layer.startswith("se.")


def _timm_layers(arch: Arch, block: Block) -> dict[str, str]:
    where = f"row {arch.rows[block.row].name}, block {block.index}"
    if block.has_expand != (block.row > 0):
        expected = "no expansion in the first row, and expansion in all others"
        raise ValueError(f"{where} has no name in timm's layout; expected {expected}")
    if block.groups != block.mid_channels:
        raise ValueError(f"{where} has no name in timm's layout; expected a depthwise convolution")
    return _TIMM_BLOCK if block.has_expand else _TIMM_FIRST_BLOCK


def _check_same_function(arch: Arch) -> None:
    found = []
    for row, stride in zip(arch.rows, _TIMM_STRIDES, strict=False):
        if row.padding is not None:
            found.append(f"row {row.name} has padding {row.padding}, not {row.kernel[0] // 2}")
        if row.stride != stride:
            found.append(f"row {row.name} has stride {row.stride}, not {stride}")
        if row.act != "hard_swish":
            found.append(f"row {row.name} has activation {row.act}")
    if arch.stem_act != "hard_swish":
        found.append(f"the stem has activation {arch.stem_act}")
    if found:
        raise ValueError(
            f"timm would compute a different function with these weights: {'; '.join(found)}. "
            "Expected padding kernel // 2, as returned by Arch.same_padding(); pass force=True to "
            "convert anyway, for fine-tuning"
        )


def _fold_stem_bias(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns `state` with the stem's bias folded into the running mean of its norm."""
    folded = dict(state)
    bias = folded.pop("stem.conv.bias", None)
    if bias is None:
        return folded
    if "stem.bn.running_mean" not in folded:
        raise ValueError(
            "stem.conv.bias does not exist in timm's layout and cannot be folded: there is no "
            "stem.bn.running_mean; expected a model with batch-norm"
        )
    folded["stem.bn.running_mean"] = folded["stem.bn.running_mean"] - bias
    return folded


def _rename(
    state: Mapping[str, Tensor], names: Mapping[str, str], dialect: Dialect
) -> dict[str, Tensor]:
    unknown = [key for key in state if key.rpartition(".")[0] not in names]
    if unknown:
        shown = ", ".join(unknown[:8]) + (", ..." if len(unknown) > 8 else "")
        raise ValueError(
            f"{len(unknown)} of {len(state)} names do not belong to this architecture in the "
            f"{dialect} layout: {shown}. Check that the architecture and the checkpoint belong "
            "together"
        )
    converted = {}
    for key, tensor in state.items():
        layer, _, leaf = key.rpartition(".")
        converted[f"{names[layer]}.{leaf}"] = tensor
    return converted
