"""Whose name a tensor has: key tables between the official layout, timm's and ours.

A dict goes in, a dict comes out; nothing is copied or changed but what a table cannot express:

* The classifier is a 1x1 convolution in the official layout, a linear layer in timm's and ours.
* timm's stem has no bias. On the way there the bias is folded into the batch-norm behind it,
  which is exact up to one rounding of the running mean; on the way back it is zero.

A network can be named in the other two layouts where it has their six or seven rows of inverted
residuals (the nine published networks, their variants and searched ones of that form). timm's
layout also expects a first row without expansion, and depthwise convolutions. Every other network
exists in our layout only.

timm computes with padding kernel // 2 and timm's strides. Where the table differs (the published
A, B, C, E and F) the names would fit and the logits would be wrong without a word, so that
`from_fbnetv3` refuses it unless forced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from fbnetv3.arch.arch import Arch, Block

if TYPE_CHECKING:
    from torch import Tensor

Dialect = Literal["official", "timm", "fbnetv3"]

# The name of the stem's convolution tells the layouts apart.
_STEMS: dict[Dialect, str] = {
    "official": "backbone.stages.xif0_0.conv",
    "timm": "conv_stem",
    "fbnetv3": "stem.conv",
}
# Which stage each row belongs to: the official layout joins rows of one resolution, timm's the
# last two rows.
_STAGES: dict[Dialect, tuple[int, ...]] = {
    "official": (1, 2, 3, 4, 4, 5, 5),
    "timm": (0, 1, 2, 3, 4, 5, 5),
}
_TIMM_STRIDES = (1, 2, 2, 2, 1, 2, 1)

# Ours: theirs.
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
# Without an expansion timm calls the projection conv_pw, and counts its norms from there.
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
    """Returns whose layout a state dict has, by the name of the stem's convolution.

    Raises:
        ValueError: it is none of the three.
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
    """Returns our name -> their name of every layer that has tensors, from stem to classifier.

    Raises:
        ValueError: the network has no names in that layout; says why.
    """
    _check_dialect(dialect)
    if len(arch.rows) not in (6, 7) or any(1 in row.kernel for row in arch.rows):
        raise ValueError(
            f"a network of {len(arch.rows)} rows has no names in the {dialect} layout; expected 6 "
            "or 7 rows of inverted residuals. Use the fbnetv3 layout"
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
            prefix, table = f"backbone.stages.xif{stage}_{position}", _OFFICIAL_BLOCK
        else:
            prefix, table = f"blocks.{stage}.{position}", _timm_table(arch, block)
        for ours, theirs in table.items():
            if _has(block, ours):
                names[f"stages.{block.row}.{block.index}.{ours}"] = f"{prefix}.{theirs}"
        position += 1
    return names | {ours: theirs for ours, theirs in ends.items() if ours not in names}


def to_fbnetv3(state: Mapping[str, Tensor], arch: Arch, dialect: Dialect) -> dict[str, Tensor]:
    """Returns the tensors under our names, for a model of `arch`.

    Tensors that lack are not noticed here, `checkpoint.load_strict` lists them.

    Args:
        state: tensors in the layout `dialect`.
        arch: the network; its paddings have no influence on names.
        dialect: the layout of `state`, see `detect_dialect`.

    Raises:
        ValueError: a name does not belong to the network in that layout.
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
    """Returns tensors of our layout under the names of another one.

    Args:
        state: tensors under our names.
        arch: the network they belong to.
        dialect: the layout wanted.
        force: convert into timm's layout although timm would compute another function.

    Raises:
        ValueError: the network has no names in that layout, a name does not belong to it, or timm
            would compute another function and `force` is not set.
    """
    if dialect == "fbnetv3":
        return dict(state)
    names = module_names(arch, dialect)
    if dialect == "timm" and not force:
        _refuse_other_function(arch)
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


def _timm_table(arch: Arch, block: Block) -> dict[str, str]:
    where = f"row {arch.rows[block.row].name}, block {block.index}"
    if block.has_expand != (block.row > 0):
        expected = "an expansion behind the first row, and none in it"
        raise ValueError(f"{where} has no name in timm's layout; expected {expected}")
    if block.groups != block.mid_channels:
        raise ValueError(f"{where} has no name in timm's layout; expected a depthwise convolution")
    return _TIMM_BLOCK if block.has_expand else _TIMM_FIRST_BLOCK


def _refuse_other_function(arch: Arch) -> None:
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
            f"timm would compute another function with these weights: {'; '.join(found)}. "
            "Expected a table with padding kernel // 2, as of Arch.same_padding(); convert "
            "nevertheless with force=True, for fine-tuning"
        )


def _fold_stem_bias(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns `state` without the stem's bias: the norm behind it subtracts a smaller mean."""
    folded = dict(state)
    bias = folded.pop("stem.conv.bias", None)
    if bias is None:
        return folded
    if "stem.bn.running_mean" not in folded:
        raise ValueError(
            "stem.conv.bias has no place in timm's layout and cannot be folded: there is no "
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
