"""Checks that an architecture computes what the official one does, and that weights are intact.

What cannot be checked, such as a hash that nobody publishes, is named.

`data/golden.json` holds, for each official model with known reference outputs, the first logits of
the official implementation in float64. Their weights and input are reproducible from the names and
shapes of the state dict (`golden_tensor`, `golden_input`).
"""

from __future__ import annotations

import functools
import json
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbnetv3.arch.counts import count

from .cached_weights import PUBLISHED, CachedWeights, tensors_sha256
from .meaning import check_meaning
from .registry import get_arch
from .weights import WEIGHTS, Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Result:
    """Result of one check of `verify`.

    Attributes:
        name: name of the check.
        ok: whether it passed; None for what could not be checked.
        detail: the figures, or the error.
    """

    name: str
    ok: bool | None
    detail: str


def verify(name: str, *, cache_dir: str | None = None) -> list[Result]:
    """Returns the results of all checks of a model, or of downloaded weights `model.tag`.

    Raises:
        ValueError: the name is unknown.
        FileNotFoundError: the weights are not on this machine.
    """
    arch_name = name.partition(".")[0]
    results = [*_architecture(arch_name)]
    if name in WEIGHTS:
        results += _weights(WEIGHTS[name], cache_dir)
    return results


def golden_tensor(key: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Returns the golden value of a state-dict entry in the official layout.

    The same rule as in `tests/golden/golden_rule.py`: one generator per key, seeded by its CRC-32.
    """
    import numpy as np

    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode("ascii"))))
    leaf = key.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var" or (leaf == "weight" and len(shape) == 1):
        return generator.uniform(0.5, 1.5, shape).astype(np.float32)
    z = generator.standard_normal(shape)
    if leaf == "bias":
        z = 0.5 + 0.2 * z
    elif leaf == "running_mean":
        z = 0.1 * z
    else:
        gain = 0.4 if ".se." in key else 1.4 if shape[0] > shape[1] else 0.55
        z = gain / math.sqrt(math.prod(shape[1:])) * z
    return z.astype(np.float32)


def golden_input(resolution: int) -> NDArray[np.float32]:
    """Returns the golden images, (2, 3, resolution, resolution)."""
    import numpy as np

    generator = np.random.Generator(np.random.PCG64(0))
    return generator.standard_normal((2, 3, resolution, resolution), dtype=np.float32)


@functools.cache
def _golden() -> dict[str, Any]:
    text = resources.files("fbnetv3").joinpath("data", "golden.json").read_text()
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def _architecture(name: str) -> Iterable[Result]:
    import torch

    from fbnetv3.checkpoints.checkpoint import load_strict
    from fbnetv3.checkpoints.convert import from_fbnetv3, to_fbnetv3
    from fbnetv3.models.model import build

    arch = get_arch(name)
    counts = count(arch)
    golden = _golden().get(name)
    detail = f"{counts.macs_paper:,} MACs, {counts.weight_params:,} weights at {counts.resolution}"
    if golden is None:
        yield Result("architecture", True, f"{detail}; no reference outputs are known for it")
        return
    published = golden["macs_paper"], golden["weight_params"]
    yield Result("published counts", published == (counts.macs_paper, counts.weight_params), detail)
    model = build(arch, device="meta")
    official = from_fbnetv3(model.state_dict(), arch, "official")
    made = {
        key: torch.from_numpy(golden_tensor(key, tuple(tensor.shape)))
        for key, tensor in official.items()
    }
    load_strict(model, to_fbnetv3(made, arch, "official"), assign=True, source="the golden rule")
    with torch.inference_mode():
        logits = model.eval()(torch.from_numpy(golden_input(golden["resolution"])))
    expected = torch.tensor(golden["logits"], dtype=torch.float64)
    difference = float((logits[0, : len(expected)].double() - expected).abs().max())
    yield Result(
        "golden logits",
        difference <= _TOLERANCE,
        f"with made-up weights, largest difference {difference:.1e} from the official "
        f"implementation at {golden['resolution']}; no file of weights was looked at",
    )


def _weights(weights: Weights, cache_dir: str | None) -> Iterable[Result]:
    from fbnetv3.checkpoints.checkpoint import read_tensors
    from fbnetv3.checkpoints.convert import to_fbnetv3

    from .loading import build_from_state

    cached = CachedWeights(weights, cache_dir=cache_dir, offline=True, progress=False)
    path = cached.find()
    if path is None:
        raise FileNotFoundError(
            f"{weights.name} is not on this machine; run: fbnetv3 fetch {weights.name}"
        )
    expected, origin = cached.expected_sha256(path)
    try:
        found = cached.verify(path)
    except ValueError as error:
        yield Result("sha256", False, str(error))
        return
    if expected is None:
        yield Result("sha256", None, f"{found}; nobody publishes it, and none was recorded yet")
    else:
        part = f"; only its beginning {expected} is published" if expected != found else ""
        yield Result("sha256", True, f"{found}, {origin}{part}")
    try:
        state = to_fbnetv3(read_tensors(path), cached.arch, weights.dialect)
        build_from_state(weights.arch, state, source=weights.name)
    except (ValueError, FileNotFoundError) as error:
        yield Result("load", False, str(error))
        return
    yield Result("load", True, f"{len(state)} tensors fit {weights.name}")
    yield _photos(weights, state)
    yield from _second_source(cached, path, state)
    yield Result(
        "not checked",
        None,
        f"the accuracy of {weights.top1_pct:.2f} %, which {weights.evaluated_by} measured: "
        f"fbnetv3 eval {weights.name} --data DIR"
        + ("" if origin == PUBLISHED else f"; the SHA-256: {weights.hash_origin}"),
    )


def _photos(weights: Weights, state: Mapping[str, Tensor]) -> Result:
    try:
        answers = check_meaning(weights, state)
    except ValueError as error:
        return Result("photos", False, str(error))
    if answers is None:
        return Result(
            "photos", None, f"no right answers are known for its {weights.labels} classes"
        )
    return Result("photos", True, answers)


def _second_source(
    cached: CachedWeights, path: Path, state: Mapping[str, Tensor]
) -> Iterable[Result]:
    """Compares the tensors of both sources, if both are on this machine."""
    from fbnetv3.checkpoints.checkpoint import read_tensors
    from fbnetv3.checkpoints.convert import to_fbnetv3

    second = cached.find_second()
    if second is None or second == path:
        return
    try:
        cached.verify(second)
        other = to_fbnetv3(read_tensors(second), cached.arch, cached.record.dialect)
    except ValueError as error:
        yield Result("second source", False, str(error))
        return
    same = tensors_sha256(other) == tensors_sha256(state)
    yield Result("second source", same, f"{'the same' if same else 'other'} tensors in {second}")
