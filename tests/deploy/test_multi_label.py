"""Several labels per image: the measures by their definitions, and files that carry thresholds."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import fbnetv3
from fbnetv3.arch.tables import ARCHS
from fbnetv3.deploy.classify import Classifier
from fbnetv3.deploy.export import Exported, to_onnx
from fbnetv3.deploy.multi_label import (
    average_precisions,
    best_thresholds,
    checked_thresholds,
    f1_scores,
    mean_of_known,
    micro_f1,
    same_answers,
    sigmoid,
)
from fbnetv3.deploy.onnx_model import OnnxClassifier
from fbnetv3.deploy.quantize import quantize
from fbnetv3.images.labels import example_photos
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.measure.bench import Entry, _compare
from fbnetv3.measure.runners import Runner
from fbnetv3.models.model import FBNetV3
from tests.shell import APPS

THRESHOLDS = tuple(0.05 + 0.1 * n for n in range(10))


def drawn(seed: int, ties: bool) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    scores = rng.random((40, 5))
    if ties:
        scores = np.round(scores, 1).clip(0.1)
    return scores, rng.random((40, 5)) < np.array([0.5, 0.3, 0.1, 0.9, 0.02])


def exact_average_precision(scores: list[float], truth: list[bool]) -> float:
    """The definition in exact numbers: precision at each positive's rank, ties shared."""
    total = Fraction(0)
    for score, right in zip(scores, truth, strict=True):
        if right:
            taken = [r for s, r in zip(scores, truth, strict=True) if s >= score]
            total += Fraction(sum(taken), len(taken))
    return float(total / sum(truth))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_the_mean_precision_at_the_positives(seed: int, ties: bool) -> None:
    scores, truth = drawn(seed, ties)
    found = average_precisions(scores, truth)
    for column in range(5):
        if truth[:, column].any():
            expected = exact_average_precision(
                scores[:, column].tolist(), truth[:, column].tolist()
            )
            assert found[column] == pytest.approx(expected, rel=1e-12)
        else:
            assert np.isnan(found[column])


def test_average_precision_of_a_worked_example() -> None:
    # Positives at ranks 1 and 3 of four: (1 + 2/3) / 2. The second class has no image.
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.4]])
    truth = np.array([[True, False], [False, False], [True, False], [False, False]])
    found = average_precisions(scores, truth)
    assert found[0] == pytest.approx(5 / 6)
    assert np.isnan(found[1])
    assert mean_of_known(found) == pytest.approx(5 / 6)


@pytest.mark.parametrize("ties", [False, True])
def test_no_threshold_has_a_higher_f1_than_the_chosen_one(ties: bool) -> None:
    scores, truth = drawn(4, ties)
    chosen = best_thresholds(scores, truth)
    for column, threshold in enumerate(chosen):
        right = truth[:, [column]]
        if not right.any():
            assert threshold == 0.5
            continue
        best = f1_scores(scores[:, [column]] >= threshold, right)[0]
        tried = [f1_scores(scores[:, [column]] >= t, right)[0] for t in np.linspace(0, 1, 2001)]
        assert best == pytest.approx(max(tried))
        assert not np.isin(threshold, scores[:, column]), "halfway, so that rounding is harmless"


def test_f1_counts_hits_twice_over_both_sides() -> None:
    predicted = np.array([[True, True], [True, False], [False, False]])
    truth = np.array([[True, False], [False, False], [True, False]])
    per_class = f1_scores(predicted, truth)
    assert per_class[0] == pytest.approx(2 * 1 / (2 + 2))
    assert np.isnan(per_class[1])
    assert micro_f1(predicted, truth) == pytest.approx(2 * 1 / (3 + 2))


def test_scores_of_extreme_logits_are_exact() -> None:
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]
    assert sigmoid(np.array([2.0]))[0] == pytest.approx(1 / (1 + np.exp(-2)))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([0.5], "one for each of 2 classes"),
        (["a", "b"], "threshold 'a'; expected a number from 0 to 1"),
        (1.5, "threshold 1.5"),
        ("ab", "thresholds are 'ab'"),
        (True, "thresholds are True"),
    ],
)
def test_wrong_thresholds_are_named(values: object, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        checked_thresholds(values, 2, "x")


def test_answers_are_the_same_if_every_decision_is() -> None:
    expected = np.array([[3.0, 1.0, -1.0], [3.0, 1.0, -1.0], [-1.0, -2.0, -3.0]])
    got = np.array([[3.0, 0.5, -1.0], [3.0, -0.5, -1.0], [-2.0, -1.0, -3.0]])
    assert same_answers(expected, got, (0.5, 0.5, 0.5)).tolist() == [True, False, True]
    assert same_answers(expected, got, (0.5, 0.9, 0.5)).tolist() == [True, True, True]
    assert same_answers(expected, got, ()).tolist() == [True, True, False]


def _given(logits: NDArray[np.float64], _batch: NDArray[Any]) -> NDArray[np.float64]:
    return logits


def test_latency_compares_every_decision(exported: Exported) -> None:
    logits = np.zeros((4, 10))
    logits[:, 0], logits[:, 9] = 9, 3
    other = logits.copy()
    other[0, 9] = 2  # 0.88, under the threshold of 0.95, and 3 is 0.953
    runners = [
        Runner("x", 1, partial(_given, found), lambda _batch: list, lambda: None)
        for found in (logits, other)
    ]
    tried = [Entry("torch", "fp32", 1), Entry("torch-bf16", "bf16", 1)]
    images = np.zeros((4, 3, 32, 32), np.float32)
    exact, found = _compare(runners, tried, exported.artefact, images, None)
    assert (exact["agreement_pct"], found["agreement_pct"]) == (100, 75)


@pytest.fixture(scope="module")
def model(golden_network: Callable[..., FBNetV3]) -> FBNetV3:
    """A multi-label model of ten classes, as it comes out of a folder of `train`."""
    made = golden_network(ARCHS["fbnetv3_nano"].small_image(32), num_classes=10)
    made.pretrained_cfg = {
        **made.pretrained_cfg,
        "label_names": tuple(f"thing {n}" for n in range(10)),
        "thresholds": THRESHOLDS,
    }
    return made


@pytest.fixture(scope="module")
def exported(
    model: FBNetV3, small_preprocess: Preprocess, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    path = tmp_path_factory.mktemp("several") / "several.onnx"
    return to_onnx(model, path, preprocess=small_preprocess)


def test_a_file_carries_task_and_thresholds_and_answers_as_torch_does(
    model: FBNetV3, exported: Exported, small_preprocess: Preprocess
) -> None:
    assert exported.artefact.multi_label
    assert exported.artefact.thresholds == THRESHOLDS
    metadata = {p.key: p.value for p in onnx.load(exported.path).metadata_props}
    assert metadata["fbnetv3.task"] == "multi-label-classification"
    assert json.loads(metadata["fbnetv3.thresholds"]) == list(THRESHOLDS)
    photo = example_photos()[0]
    by_torch = Classifier(model, preprocess=small_preprocess)
    by_onnx = OnnxClassifier(exported.path)
    scores = 1 / (1 + np.exp(-by_torch._logits(small_preprocess(fbnetv3.open_image(photo))[None])))
    expected = {f"thing {n}" for n in range(10) if scores[0, n] >= THRESHOLDS[n]}
    assert 0 < len(expected) < 10
    for classifier in (by_torch, by_onnx, pickle.loads(pickle.dumps(by_onnx))):
        found = classifier(photo)
        assert set(found.labels) == expected
        assert list(found.probabilities) == sorted(found.probabilities, reverse=True)
        for index, probability in zip(found.indices, found.probabilities, strict=True):
            assert probability == pytest.approx(scores[0, index], abs=1e-4)


def test_thresholds_can_be_replaced_and_none_of_the_classes_is_an_answer(
    exported: Exported, small_export: Exported
) -> None:
    photo = example_photos()[0]
    everything = OnnxClassifier(exported.path, thresholds=0)(photo)
    assert sorted(everything.indices) == list(range(10))
    nothing = Classifier(exported.path, thresholds=[1.0] * 10)(photo)
    assert (nothing.labels, nothing.error) == ((), None)
    with pytest.raises(ValueError, match="none of the classes"):
        _ = nothing.label
    with pytest.raises(ValueError, match=r"thresholds=0.5 is for multi-label models"):
        OnnxClassifier(small_export.path, thresholds=0.5)


def test_classify_prints_classes_above_their_thresholds(
    exported: Exported, small_export: Exported
) -> None:
    photo = str(example_photos()[0])
    words = ["classify", photo, "--model", str(exported.path)]

    def called(*more: str) -> str:
        done = CliRunner().invoke(APPS["fbnetv3"], [*words, *more])
        assert done.exit_code == 0, done.output
        return done.output

    found = OnnxClassifier(exported.path)(photo)
    assert len(found.labels) != 5, "a count that top-5 would not give by chance"
    assert called().count(" %") == len(found.labels)
    assert "none of the classes" in called("--threshold", "1")
    record = json.loads(called("--json"))
    assert record["multi_label"] is True
    assert record["predictions"][0]["labels"] == list(found.labels)
    refused = CliRunner().invoke(
        APPS["fbnetv3"],
        ["classify", photo, "--model", str(small_export.path), "--threshold", "0.5"],
    )
    assert refused.exit_code == 2
    assert "multi-label" in refused.output


def test_a_file_with_too_few_thresholds_is_refused(exported: Exported, tmp_path: Path) -> None:
    proto = onnx.load(exported.path)
    for prop in proto.metadata_props:
        if prop.key == "fbnetv3.thresholds":
            prop.value = "[0.5]"
    path = tmp_path / "cut.onnx"
    onnx.save(proto, path)
    with pytest.raises(ValueError, match="1 thresholds for 10 logits"):
        OnnxClassifier(path)


def test_quantizing_keeps_the_thresholds_and_measures_map(
    exported: Exported, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(24)]
    exact = OnnxClassifier(exported.path)
    labels = [found.indices for found in exact(photos)]
    done = quantize(
        exported.path,
        tmp_path / "int8.onnx",
        photos,
        evaluation=photos,
        labels=labels,
        method="minmax",
        sensitivity=False,
    )
    assert done.artefact.thresholds == THRESHOLDS
    assert done.top1_pct is None
    int8 = OnnxClassifier(tmp_path / "int8.onnx")
    same = [
        set(a.labels) == set(b.labels) for a, b in zip(exact(photos), int8(photos), strict=True)
    ]
    assert done.agreement_pct == pytest.approx(100 * np.mean(same))
    assert done.map_float_pct is not None
    # The labels are the float file's own, so that its ranking is right up to the thresholds.
    assert done.map_float_pct == pytest.approx(100)
    assert done.map_pct is not None
    assert 50 < done.map_pct <= 100
    with pytest.raises(ValueError, match=r"labels\[0\] is 3; expected a sequence of classes"):
        quantize(
            exported.path, tmp_path / "x.onnx", photos, evaluation=photos, labels=[3] * len(photos)
        )


def test_a_file_of_before_is_still_read(small_export: Exported) -> None:
    metadata = small_export.artefact.to_metadata()
    assert "fbnetv3.thresholds" not in metadata
    again = type(small_export.artefact).from_metadata(metadata, source="x")
    assert again == dataclasses.replace(small_export.artefact, thresholds=())
    assert not again.multi_label
