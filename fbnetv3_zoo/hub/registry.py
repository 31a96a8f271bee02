"""Looking up and listing architectures and weights by name, or by size and accuracy.

A name is `model` or `model.tag`; the tag selects pretrained weights. Nothing here imports torch, so
that lookups are fast; `create` builds the models.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fbnetv3.arch.arch import Arch
from fbnetv3.arch.counts import count
from fbnetv3.arch.tables import ARCHS

from .license_policy import effective_policy
from .weights import WEIGHTS, Weights

# Prefixes of saved models in a local folder or on the hub.
FOLDERS = ("local-dir:", "hf-hub:", "hf_hub:")
# Prefixes of other libraries' networks, which are trained and evaluated only.
_FOREIGN = ("timm:", "torchvision:")
# No classifier of images has fewer MACs or parameters.
_MIN_COUNT = 10_000
# Suffixes of checkpoints, in lower case.
_CHECKPOINTS = frozenset({".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors"})
# Architectures added by `register`.
_REGISTERED: dict[str, Arch] = {}


@dataclass(frozen=True)
class Found:
    """One result of `find`: a set of pretrained weights.

    Attributes:
        name: `model.tag`.
        macs_paper: MACs (multiply-adds) per image at the weights' resolution.
        params: number of trainable parameters.
        top1_pct: published or measured top-1 in percent.
        labels: the data set of the accuracy.
        license: SPDX name of the weights' licence.
    """

    name: str
    macs_paper: int
    params: int
    top1_pct: float
    labels: str
    license: str


def list_models(
    filter: str | Sequence[str] = "",
    *,
    pretrained: bool = False,
    license: str | None = None,
) -> list[str]:
    """Returns the names of all models, sorted; with `pretrained` the names `model.tag` of weights.

    Args:
        filter: a wildcard pattern such as "fbnetv3_*", or several; empty for all.
        pretrained: list pretrained weights instead of models.
        license: "commercial" or an SPDX name; implies `pretrained`.
    """
    if pretrained or license:
        return list_weights(filter, license=license)
    return _matching(_archs(), filter)


def list_weights(filter: str | Sequence[str] = "", *, license: str | None = None) -> list[str]:
    """Returns the names `model.tag` of all pretrained weights, sorted.

    Args:
        filter: a wildcard pattern for the full name or the model, or several.
        license: "commercial" for weights that allow commercial use, or an SPDX name.
    """
    names = _matching(WEIGHTS, filter)
    return [name for name in names if _allowed(WEIGHTS[name], license)]


def find(
    *,
    max_macs: float | None = None,
    max_params: float | None = None,
    min_top1: float | None = None,
    license: str | None = None,
    labels: str = "imagenet1k",
) -> list[Found]:
    """Returns pretrained weights within limits, most accurate first.

    Args:
        max_macs: MACs (multiply-adds) per image, in the paper's convention, such as 6e8.
        max_params: number of trainable parameters.
        min_top1: top-1 in percent, measured by the `evaluated_by` of the weights.
        license: "commercial" or an SPDX name.
        labels: the data set, "imagenet1k" or "cifar10".

    Raises:
        ValueError: a limit is so small that it must have been meant in millions.
    """
    for name, limit in (("max_macs", max_macs), ("max_params", max_params)):
        if limit is not None and 0 < limit < _MIN_COUNT:
            raise ValueError(f"{name} is {limit:g}; expected a count: {limit:g}e6 for millions")
    results = []
    for name in list_weights(license=license):
        weights = WEIGHTS[name]
        counts = count(weights.arch, weights.preprocess.crop, num_classes=weights.num_classes)
        if (
            weights.labels == labels
            and (max_macs is None or counts.macs_paper <= max_macs)
            and (max_params is None or counts.params <= max_params)
            and (min_top1 is None or weights.top1_pct >= min_top1)
        ):
            results.append(
                Found(
                    name,
                    counts.macs_paper,
                    counts.params,
                    weights.top1_pct,
                    weights.labels,
                    weights.license,
                )
            )
    return sorted(results, key=lambda result: -result.top1_pct)


def get_arch(name: str) -> Arch:
    """Returns the architecture of a model, of weights `model.tag`, or of a JSON file.

    Args:
        name: name of a model or of weights, or path or URL of a .json file.

    Raises:
        ValueError: the name is unknown (the message suggests the closest), or the file does not
            hold an architecture.
        FileNotFoundError: the file does not exist or cannot be fetched.
    """
    if name in WEIGHTS:
        return WEIGHTS[name].arch
    if name.endswith(".json"):
        from .arch_file import read_arch

        return read_arch(name)
    archs = _archs()
    if name not in archs:
        raise unknown_model(name)
    return archs[name]


def get_weights(name: str, *, license: str | None = None) -> Weights:
    """Returns the record of weights `model.tag`, or of those that a bare name stands for.

    A bare name stands for the most accurate weights on the model's first data set (ImageNet, if
    there are any for it) that the licence policy allows; if it allows none of them, for the first.

    Args:
        name: name of a model or of weights.
        license: the licence policy, as in `create`.

    Raises:
        ValueError: the name is unknown, or the model has no weights.
    """
    if name in WEIGHTS:
        return WEIGHTS[name]
    if name not in _archs():
        raise unknown_model(name)
    candidates = [weights for weights in WEIGHTS.values() if weights.model == name]
    if candidates:
        first = candidates[0]
        same = [weights for weights in candidates if weights.labels == first.labels]
        return _most_accurate(same, license) or first
    trained = ", ".join(sorted({weights.model for weights in WEIGHTS.values()}))
    raise ValueError(f"{name!r} has no pretrained weights; models with weights: {trained}")


def _most_accurate(candidates: Iterable[Weights], license: str | None) -> Weights | None:
    policy = effective_policy(license)
    allowed = [weights for weights in candidates if policy is None or weights.commercial]
    return max(allowed, key=lambda weights: weights.top1_pct, default=None)


def register(name: str, arch: Arch) -> None:
    """Registers an architecture under a name, for `create` and `get_arch`.

    Raises:
        ValueError: the name belongs to another architecture, or has a dot, slash or colon.
    """
    if not name or any(mark in name for mark in "./:"):
        raise ValueError(f"name is {name!r}; expected a name without '.', '/' and ':'")
    if _archs().get(name, arch) != arch:
        raise ValueError(f"{name!r} is already another architecture; choose a new name")
    _REGISTERED[name] = arch


def unknown_model(name: str) -> ValueError:
    """Returns the error for an unknown name, with the closest known name."""
    known = [*_archs(), *WEIGHTS]
    plain = name.lower().replace("-", "_")
    full = f"fbnetv3_{plain}"  # `plain` may be the letter only
    near = [full] if full in known else difflib.get_close_matches(plain, known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    tags = [weights.tag for weights in WEIGHTS.values() if name.startswith(weights.model + ".")]
    if tags:
        hint = f"; its tags are {', '.join(tags)}."
    if (files := _files_like(name)) and not tags:
        hint = f"; did you mean the file {files[0]}?"
    if (Path(name) / "config.json").is_file():
        hint = f"; did you mean 'local-dir:{name}', the folder?"
    if name.startswith(_FOREIGN):
        hint = (
            ": it is not of this package; `fbnetv3 train` and `eval` take it, and its own library "
            "exports it."
        )
    hint = file_hint(name) or hint
    return ValueError(f"unknown model {name!r}{hint} See `fbnetv3 list` or fbnetv3.list_models()")


def file_hint(name: str) -> str:
    """Returns what to do with a file that was given as a model's name, "" if it is no file.

    Also with the folder of a detector.
    """
    path = Path(name)
    if (path / "detector.json").is_file():
        return ", a detector; `fbnetv3 detect` has the commands for it."
    if not path.is_file():
        return ""
    if path.suffix.lower() in _CHECKPOINTS:
        return (
            ", a checkpoint; give its model's name, and the file as --checkpoint (export, train, "
            "eval) or create(name, checkpoint=...)."
        )
    return ", a file; if it is an exported file: `fbnetv3 latency`, `classify` and `eval` take it."


def _files_like(name: str) -> list[str]:
    """Returns files whose names are nearly that of a path with a suffix."""
    path = Path(name)
    if not path.suffix or not path.parent.is_dir():
        return []
    names = [entry.name for entry in path.parent.iterdir()]
    return [str(path.with_name(n)) for n in difflib.get_close_matches(path.name, names, 1, 0.8)]


def _archs() -> dict[str, Arch]:
    return {**ARCHS, **_REGISTERED}


def _matching(names: Iterable[str], filter: str | Sequence[str]) -> list[str]:
    patterns = [filter] if isinstance(filter, str) else list(filter)
    return sorted(
        name
        for name in names
        if not any(patterns)
        or any(
            fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name.split(".")[0], pattern)
            for pattern in patterns
        )
    )


def _allowed(weights: Weights, license: str | None) -> bool:
    if license is None:
        return True
    if license == "commercial":
        return weights.commercial
    known = {other.license for other in WEIGHTS.values()}
    if license not in known:
        raise ValueError(f"license is {license!r}; expected 'commercial' or one of {sorted(known)}")
    return weights.license == license
