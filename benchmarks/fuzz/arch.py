"""Architecture, recipe, space, candidate and latency JSON under attack.

What is accepted must go out and come back equal, cost finite numbers, and build: on the meta
device, for one architecture in fifty.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from random import Random
from typing import Any

import numpy as np

from fbnetv3.arch.arch import Arch, Row
from fbnetv3.arch.counts import count
from fbnetv3.arch.tables import ARCHS
from fbnetv3.models.model import build
from fbnetv3.search.cost.latency_table import LatencyTable, Timing
from fbnetv3.search.cost.operators import Operator
from fbnetv3.search.space.space import Space
from fbnetv3.search.space.spaces import SPACES
from fbnetv3.search.training.presets import PRESETS
from fbnetv3.search.training.recipe import Recipe

from .mutate import mutate_json

_GROUPED = Arch(
    resolution=32,
    stem_channels=16,
    rows=(
        Row("a", (3, 5), (1.0, 2.0), 16, 2, 1, False, groups=(4, 8), act="relu"),
        Row("b", (5, 5), (4.0, 3.0), 24, 3, 2, True, padding=1),
        Row("c", (1, 1), (1.0, 1.0), 40, 1, 1, False),
    ),
    head_expansion=2.5,
    head_channels=64,
    stem_act="relu",
)


class ArchTarget:
    """JSON texts near real architectures (55 %), recipes, spaces, candidates, latency tables."""

    documented = re.compile(
        r"expected|known:|needed:|is not valid JSON|it has |has gene|names gene|has a value twice"
        r"|; see |; use "
    )

    def __init__(self) -> None:
        archs = [*ARCHS.values(), _GROUPED]
        self._archs = [arch.to_dict() for arch in archs] + [_GROUPED.to_dict()] * len(archs)
        self._recipes = [
            recipe.to_dict() for recipe in (preset.recipe for preset in PRESETS.values())
        ]
        operator, timing = Operator("conv", 3, 16, 32, 3, 2, 1), Timing(0.5, 0.4, 0.6, 30)
        table = LatencyTable({operator: timing}, 1.1, 0.2, 3.0, (10, 5), {"name": "cpu"})
        self._latency = json.loads(table.to_json())
        spaces = [make() for make in SPACES.values()]
        self._spaces = [space.to_dict() for space in spaces]
        self._small_spaces = [_small_space().to_dict()]
        self._candidates = [
            (space, space.values(space.sample(1, np.random.default_rng(0))[0])) for space in spaces
        ]

    def make(self, draw: Random) -> tuple[str, Any]:
        """Returns the kind of a case and a text; of a candidate also its space."""
        kind = draw.choices(
            ("arch", "recipe", "space", "candidate", "latency"), (55, 12, 17, 8, 8)
        )[0]
        if kind == "arch":
            return kind, mutate_json(draw, draw.choice(self._archs))
        if kind == "recipe":
            return kind, mutate_json(draw, draw.choice(self._recipes))
        if kind == "space":
            few = self._small_spaces if draw.random() < 0.7 else self._spaces
            return kind, mutate_json(draw, draw.choice(few))
        if kind == "latency":
            return kind, mutate_json(draw, self._latency)
        space, values = draw.choice(self._candidates)
        return kind, (space, mutate_json(draw, values))

    def read(self, kind: str, case: Any) -> None:
        """Reads a case and checks what was accepted."""
        if kind == "arch":
            _read_arch(case)
        elif kind == "recipe":
            recipe = Recipe.from_json(case)
            assert Recipe.from_json(recipe.to_json()) == recipe
            assert all(math.isfinite(recipe.lr_at(at)) for at in (0, 0.5, recipe.epochs))
        elif kind == "space":
            _read_space(case)
        elif kind == "latency":
            table = LatencyTable.from_json(case)
            assert LatencyTable.from_json(table.to_json()) == table
        else:
            _read_candidate(*case)


def _small_space() -> Space:
    cells = {
        "schema": "fbnetv3-space/1",
        "name": "small",
        "version": 2,
        "genes": [
            {"name": "width", "kind": "int-grid", "low": 16, "high": 32, "step": 4},
            {"name": "wide", "kind": "float-grid", "low": 1.0, "high": 3.0, "step": 0.5},
            {"name": "kernel", "kind": "ordered", "values": [3, 5, 7], "confidence": "ours"},
            {"name": "se", "values": [True, False]},
            {"name": "how", "group": "recipe", "values": ["sgd", "rmsprop"]},
            {"name": "decay", "group": "recipe", "values": [0.9, 0.99], "when": ["how", ["sgd"]]},
        ],
        "layout": {
            "arch": {
                "resolution": 32,
                "stem_channels": 16,
                "rows": [
                    {
                        "name": "a",
                        "kernel": "$kernel",
                        "expansion": "$wide",
                        "channels": "$width",
                        "repeats": 2,
                        "stride": 2,
                        "se": "$se",
                    }
                ],
                "head_expansion": 2.0,
                "head_channels": 64,
            },
            "recipe": {"optimizer": "$how", "momentum": "$decay", "epochs": 3},
            "round_widths": True,
        },
        "packs": [],
    }
    return Space.from_json(json.dumps(cells))


def _read_arch(text: str) -> None:
    arch = Arch.from_json(text)
    again = Arch.from_json(arch.to_json())
    assert again == arch
    assert again.sha256 == arch.sha256
    counts = dataclasses.astuple(count(arch))
    assert all(isinstance(number, int) and number > 0 for number in counts)
    if int(arch.sha256[:8], 16) % 50 == 0:
        model = build(arch, device="meta")
        built = sum(parameter.numel() for parameter in model.parameters())
        assert built == count(arch).params


def _read_space(text: str) -> None:
    space = Space.from_json(text)
    again = Space.from_json(space.to_json())
    assert again.to_json() == space.to_json()
    assert again.sha256 == space.sha256
    assert 1 <= space.cardinality() <= space.raw_cardinality()
    batch = space.sample(3, np.random.default_rng(0))
    assert (space.canonical(batch) == batch).all()
    assert len(space.hashes(batch)) == 3
    assert np.isfinite(space.encode(batch)).all()
    assert (space.from_values(space.values(batch[0])) == batch[0]).all()
    if space.layout.arch is not None:
        try:
            space.decode(batch[0])
        except ValueError as error:
            # A space may hold candidates that are no network.
            if not ArchTarget.documented.search(str(error)):
                raise AssertionError("decode: another form of error") from error


def _read_candidate(space: Space, text: str) -> None:
    values = json.loads(text) if _is_object(text) else {}
    row = space.from_values(values)
    assert (space.from_values(space.values(row)) == row).all()


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
