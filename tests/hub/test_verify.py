"""`verify` passes what is right and names what is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.convert import from_fbnetv3
from fbnetv3.hub import verify as module
from fbnetv3.hub.verify import golden_input, golden_tensor, verify
from fbnetv3.hub.weights import WEIGHTS, Embedded
from fbnetv3.models.model import build
from tests.modules import module_of_file
from tests.paths import GOLDEN

NANO = "fbnetv3_nano.cifar10"


def outcome(name: str) -> dict[str, bool | None]:
    return {result.name: result.ok for result in verify(name)}


def test_the_rule_is_that_of_the_golden_data() -> None:
    path = GOLDEN / "golden_rule.py"
    rule = module_of_file(path)
    state = build(ARCHS["fbnetv3_a0"], device="meta").state_dict()
    official = from_fbnetv3(state, ARCHS["fbnetv3_a0"], "official")
    for key, tensor in official.items():
        ours = golden_tensor(key, tuple(tensor.shape))
        np.testing.assert_array_equal(ours, rule.golden_tensor(key, tensor.shape))
    np.testing.assert_array_equal(golden_input(32), rule.golden_input(32))


def test_the_published_network_passes() -> None:
    assert outcome("fbnetv3_a0") == {"published counts": True, "golden logits": True}


def test_another_network_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = ARCHS["fbnetv3_a0"].same_padding()
    rows = list(changed.rows)
    rows[-1] = dataclasses.replace(rows[-1], act="relu")
    changed = dataclasses.replace(changed, rows=tuple(rows))
    monkeypatch.setattr(module, "get_arch", lambda _: changed)
    assert outcome("fbnetv3_a0") == {"published counts": True, "golden logits": False}


def test_a_network_without_reference_says_so() -> None:
    (result,) = verify("fbnetv3_nano")
    assert result.ok
    assert "no reference outputs" in result.detail


def test_embedded_weights_pass_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = {"architecture": True, "sha256": True, "load": True, "photos": True}
    assert outcome(NANO) == {**passed, "not checked": None}
    weights = WEIGHTS[NANO]
    assert isinstance(weights.source, Embedded)
    wrong = dataclasses.replace(weights.source, sha256="0" * 64)
    monkeypatch.setitem(WEIGHTS, NANO, dataclasses.replace(weights, source=wrong))
    assert outcome(NANO) == {"architecture": True, "sha256": False}


def test_weights_of_another_network_do_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(WEIGHTS[NANO], variant="published", num_classes=1000)
    monkeypatch.setitem(WEIGHTS, NANO, dataclasses.replace(other, model="fbnetv3_a0"))
    assert outcome(NANO)["load"] is False


def test_unknown_and_unfetched_names_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="did you mean"):
        verify("fbnetv3_aa")
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"fbnetv3 fetch fbnetv3_a\.meta_in1k"):
        verify("fbnetv3_a.meta_in1k")
