"""Finds the weights in a training checkpoint: which entry has them, and their plain names.

Tools that train store weights beside optimizer and epoch, several under one file, and wrap the
model so that its names get longer. Each dialect is a row of the tables here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from fbnetv3._internal.messages import shown

from .convert import STEM_WEIGHTS
from .torch_pickle import Stored, describe

_Value = TypeVar("_Value")
_TENSORS = (Stored, Tensor)


@dataclass(frozen=True)
class Entry:
    """An entry of a training checkpoint that has weights.

    Attributes:
        key: its name.
        averaged: whether it has EMA (exponential moving average) weights.
        written_by: tools that write it, for messages.
    """

    key: str
    averaged: bool
    written_by: str


# In order of preference: EMA weights are the ones that were evaluated.
ENTRIES = (
    #     key                      EMA    written by
    Entry("model_ema", True, "torchvision's references"),
    Entry("state_dict_ema", True, "timm"),
    Entry("model_ema_state_dict", True, "training loops"),
    Entry("ema_state_dict", True, "training loops"),
    Entry("ema", True, "training loops"),
    Entry("ema_model", True, "training loops"),
    Entry("averaged_model", True, "training loops"),
    Entry("swa_model", True, "PyTorch's averaging"),
    Entry("swa_state_dict", True, "training loops"),
    Entry("swa", True, "training loops"),
    Entry("shadow_params", True, "training loops"),
    Entry("shadow", True, "training loops, in their 'ema'"),
    Entry("params_ema", True, "BasicSR"),
    Entry("state_dict", False, "timm, Lightning, MMEngine"),
    Entry("model_state_dict", False, "PyTorch's tutorials"),
    Entry("model_state", False, "training loops"),
    Entry("model", False, "torchvision's references, fastai, Ignite"),
    Entry("module", False, "DeepSpeed"),
    Entry("net", False, "training loops"),
    Entry("network", False, "training loops"),
    Entry("weights", False, "training loops"),
    Entry("model_weights", False, "training loops"),
    Entry("model_dict", False, "training loops"),
    Entry("best_state_dict", False, "training loops"),
    Entry("params", False, "BasicSR"),
    Entry("state", False, "Composer"),
)
_USUAL = "'state_dict' or 'model'"
# Components that wrappers put before or between the names of layers.
_WRAPPERS = frozenset(
    {
        "_orig_mod",  # torch.compile
        "_fsdp_wrapped_module",  # FullyShardedDataParallel
        "_checkpoint_wrapped_module",  # activation checkpointing
    }
)
# Attributes that hold the model in a module around it, nested in any order: name -> whether EMA.
_HOLDERS = {
    "module": False,  # DataParallel, DistributedDataParallel, AveragedModel
    "model": False,  # Lightning modules
    "timm_model": False,  # timm in Hugging Face transformers
    "net": False,
    "network": False,
    "ema": True,
    "ema_model": True,
    "model_ema": True,
}
# Tensors of wrappers and profilers, no part of the model.
_BOOKKEEPING = frozenset({"n_averaged", "total_ops", "total_params"})
# In our layout and timm's, and in the official one.
_CLASSIFIERS = ("classifier.weight", "head.conv.weight")
# Composer nests one deep; more is no checkpoint.
_MAX_DEPTH = 3


@dataclass(frozen=True)
class Taken:
    """What was read from a training checkpoint.

    Attributes:
        entry: path of the entry that was taken, "" for the file itself.
        averaged: whether it has EMA weights.
        passed_over: other entries with weights.
        removed: prefix that was removed from the names.
        left_out: number of tensors and other values outside the model, such as those of a loss.
    """

    entry: str = ""
    averaged: bool = False
    passed_over: tuple[str, ...] = ()
    removed: str = ""
    left_out: int = 0

    def __str__(self) -> str:
        """Returns a sentence, "" if the file is a plain state dict."""
        parts = []
        if self.entry:
            kind = "EMA weights" if self.averaged else "weights"
            others = f", not {' or '.join(map(repr, self.passed_over))}" if self.passed_over else ""
            parts.append(f"the {kind} of its entry {self.entry!r}{others}")
        if self.removed:
            parts.append(f"names without {self.removed!r}")
        if self.left_out:
            parts.append(f"{self.left_out} values outside the model left out")
        return f"taken: {'; '.join(parts)}" if parts else ""


def find_weights(content: object) -> tuple[dict[str, Any], Taken]:
    """Returns the weights of a checkpoint under the model's own names, and what was taken.

    Args:
        content: what a file holds, with tensors or their records in it.

    Raises:
        ValueError: there are none, or not only tensors.
    """
    found, taken = _find_entry(content)
    where = f"its entry {taken.entry!r}" if taken.entry else "it"
    if not isinstance(found, Mapping):
        raise ValueError(f"{where} holds {describe(found)}; expected a mapping of names to tensors")
    if not found:
        raise ValueError(f"{where} holds no tensor")
    tensors = {n: v for n, v in found.items() if isinstance(n, str) and isinstance(v, _TENSORS)}
    if len(tensors) < len(found) and _stem_prefix(tensors) is not None:
        # A network, and beside its tensors an epoch or the like.
        named, taken = plain_names(tensors, taken)
        num_others = len(found) - len(tensors)
        return named, dataclasses.replace(taken, left_out=taken.left_out + num_others)
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, _TENSORS):
            cure = ""
            if "numpy." in describe(value):
                cure = "; make tensors of numpy's arrays with torch.from_numpy"
            raise ValueError(
                f"{where} holds {describe(found)}, where {name!r} is {describe(value)}{cure}; "
                f"expected tensors only, or an entry with them such as {_USUAL}"
            )
    return plain_names(found, taken)


def _find_entry(found: object) -> tuple[object, Taken]:
    """Returns the entry of a checkpoint that has the weights, and which it is."""
    path: list[str] = []
    averaged = False
    passed_over: tuple[str, ...] = ()
    while isinstance(found, Mapping) and not _is_weights(found) and len(path) < _MAX_DEPTH:
        there = [entry for entry in ENTRIES if isinstance(found.get(entry.key), Mapping)]
        if not any(_has_weights(found[entry.key]) for entry in there):
            # Under another name a network is taken if it is the only one.
            others = [key for key, value in found.items() if _has_network(value)]
            if len(others) > 1:
                raise ValueError(
                    f"it holds several networks, {', '.join(map(shown, others))}; save the one "
                    "that is meant"
                )
            if others and isinstance(others[0], str):
                there = [Entry(others[0], False, "")]
        if not there:
            unusable = [entry for entry in ENTRIES if found.get(entry.key) is not None]
            if not unusable or path:
                break
            return found[unusable[0].key], Taken(unusable[0].key)
        # One that has weights; else the first one, for the error message.
        first = next((e for e in there if _has_weights(found[e.key])), there[0])
        path.append(first.key)
        averaged = averaged or first.averaged
        passed_over = tuple(e.key for e in there if e is not first and _is_weights(found[e.key]))
        found = found[first.key]
    return found, Taken(".".join(path), averaged, passed_over)


def plain_names(
    named: Mapping[str, _Value], taken: Taken | None = None
) -> tuple[dict[str, _Value], Taken]:
    """Returns tensors under the model's own names, and `taken` with what was removed.

    The prefix of the stem's weight is the model's, whatever it is if there is one only, and tensors
    without it are left out. Without such a stem the prefix is the one that all names share.

    Args:
        named: name -> tensor.
        taken: the entry they come from, if they were one of several.

    Raises:
        ValueError: two names become the same.
    """
    unwrapped = {_unwrapped(name): value for name, value in named.items()}
    if len(unwrapped) != len(named):
        raise ValueError("it has a name both with and without a wrapper such as '_orig_mod.'")
    # MMCV keeps the raw weights under such names, and the averaged ones under the model's.
    swapped = {f"ema_{name.replace('.', '_')}" for name in unwrapped}
    model = {
        name: value
        for name, value in unwrapped.items()
        if name.rpartition(".")[2] not in _BOOKKEEPING and name not in swapped
    }
    prefix = _stem_prefix(model)
    if prefix is None:
        prefix = _shared_prefix(model)
    inside = {name.removeprefix(prefix): v for name, v in model.items() if name.startswith(prefix)}
    taken = taken or Taken()
    return inside, dataclasses.replace(
        taken,
        averaged=taken.averaged or _is_averaged(prefix) or not swapped.isdisjoint(unwrapped),
        removed=_removed(named, prefix),
        left_out=len(model) - len(inside) + len(swapped.intersection(unwrapped)),
    )


def _is_weights(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(n, str) and isinstance(v, _TENSORS) for n, v in value.items())
    )


def _has_network(value: object) -> bool:
    """Returns whether an entry, or one in it, has weights with a stem."""
    if not isinstance(value, Mapping) or not _has_weights(value):
        return False
    found, _ = _find_entry(value)
    return isinstance(found, Mapping) and _stem_prefix(found) is not None


def _has_weights(value: object, depth: int = 1) -> bool:
    if _is_weights(value):
        return True
    if depth >= _MAX_DEPTH or not isinstance(value, Mapping):
        return False
    return any(_has_weights(value.get(entry.key), depth + 1) for entry in ENTRIES)


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _is_averaged(prefix: str) -> bool:
    return any(_HOLDERS.get(part, False) for part in prefix.split(".")[:-1])


def _stem_prefix(named: Collection[str]) -> str | None:
    """Returns the prefix of a stem's weight, EMA weights first; None if there is none.

    Raises:
        ValueError: there are several, under names that do not tell which is meant.
    """
    prefixes = {
        name.removesuffix(stem) for stem in STEM_WEIGHTS for name in named if name.endswith(stem)
    }
    whole = {prefix for prefix in prefixes if prefix == "" or prefix.endswith(".")}
    # One layout's stem ends like another's: "backbone.stages..." is no "stages..." in a backbone.
    known = [p for p in whole if all(part in _HOLDERS for part in p.split(".")[:-1])]
    if known:
        return min(known, key=lambda prefix: (not _is_averaged(prefix), len(prefix)))
    # Under a name that is not in the table, only a whole network counts: with its classifier.
    whole = {p for p in whole if any(f"{p}{name}" in named for name in _CLASSIFIERS)}
    if len(whole) > 1:
        raise ValueError(
            f"it holds several networks, {', '.join(sorted(whole))}; save the one that is meant"
        )
    return next(iter(whole), None)


def _shared_prefix(named: Collection[str]) -> str:
    prefix = ""
    while named:
        holders = {name[len(prefix) :].partition(".")[0] for name in named}
        if len(holders) != 1 or not holders <= _HOLDERS.keys():
            break
        longer = f"{prefix}{holders.pop()}."
        if not all(name.startswith(longer) and name != longer for name in named):
            break
        prefix = longer
    return prefix


def _removed(named: Collection[str], prefix: str) -> str:
    """Returns what was removed from the beginning of names, as it stands in the file."""
    for name in named:
        plain = _unwrapped(name)
        if plain.startswith(prefix) and name.endswith(plain.removeprefix(prefix)):
            return name.removesuffix(plain.removeprefix(prefix))
    return prefix
