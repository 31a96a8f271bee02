"""Temperature, threshold and calibration error, compared with closed forms."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from fbnetv3.deploy.confidence import (
    calibration_error_pct,
    carried_over,
    energy,
    fit_confidence,
    reliability,
)
from fbnetv3.hub.confidence import Confidence


def drawn(num: int, temperature: float, seed: int = 0) -> tuple[Any, Any]:
    """Returns logits (num, 4), and labels drawn from their softmax at a temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(num, 4)) * 2
    shares = np.exp(logits / temperature)
    shares /= shares.sum(1, keepdims=True)
    labels = (shares.cumsum(1) < generator.random((num, 1))).sum(1)
    return logits, labels


def test_energy_is_log_sum_exp_for_logits_of_any_size() -> None:
    logits = np.array([[1000.0, 1000.0], [-1000.0, -1000.0], [0.0, math.log(3)]])
    expected = [1000 + math.log(2), -1000 + math.log(2), math.log(4)]
    np.testing.assert_allclose(energy(logits), expected, rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature: float) -> None:
    logits, labels = drawn(20_000, temperature)
    assert fit_confidence(logits, labels).temperature == pytest.approx(temperature, rel=0.05)


def test_the_threshold_lets_the_chosen_share_through() -> None:
    logits, labels = drawn(1000, 1.0)
    found = fit_confidence(logits, labels, true_accept_pct=90)
    assert found.true_accept_pct == pytest.approx(90, abs=0.1)
    assert found.threshold is not None
    assert (energy(logits) >= found.threshold).mean() == pytest.approx(0.9, abs=0.001)
    foreign = drawn(1000, 1.0, seed=1)[0] - 2
    found = fit_confidence(logits, labels, others=foreign, false_accept_pct=10)
    assert found.false_accept_pct == pytest.approx(10, abs=0.1)
    assert found.threshold is not None
    assert found.true_accept_pct == pytest.approx(
        100 * (energy(logits) >= found.threshold).mean(), abs=0.01
    )


def test_what_stands_in_for_a_network_answers_alike() -> None:
    before = drawn(400, 1.0)[0] * 2
    known = fit_confidence(before, before.argmax(1), true_accept_pct=90)
    known = dataclasses.replace(known, temperature=1.3, false_accept_pct=5.0)
    assert known.threshold is not None
    shifted = carried_over(known, before, before - 0.7)
    assert shifted.temperature == pytest.approx(1.3, rel=1e-3)
    assert shifted.threshold == pytest.approx(known.threshold - 0.7, abs=1e-3)
    assert shifted.true_accept_pct == pytest.approx(90, abs=0.3)
    assert (shifted.false_accept_pct, shifted.num_images) == (None, 400)
    # Noise as that of int8, and logits that are smaller throughout.
    noise = np.random.default_rng(1).normal(0, 0.05, before.shape)
    after = 0.8 * before - 1 + noise
    found = carried_over(known, before, after)
    assert found.temperature == pytest.approx(0.8 * 1.3, rel=0.03)
    assert found.threshold is not None
    accepted = energy(before) >= known.threshold
    same = (energy(after) >= found.threshold) == accepted
    unchanged = (energy(after) >= known.threshold) == accepted
    assert same.mean() > 0.98
    assert unchanged.mean() < 0.9


def test_few_images_change_no_record() -> None:
    known = Confidence(temperature=1.3, threshold=4.0)
    before = drawn(49, 1.0)[0]
    assert carried_over(known, before, before - 1) is known


def test_the_calibration_error_is_the_mean_gap_of_bins() -> None:
    probabilities = np.array([0.95] * 10 + [0.55] * 30)
    right = np.array([True] * 8 + [False] * 2 + [True] * 15 + [False] * 15)
    # Gaps of 0.15 and 0.05, on a quarter and three quarters of the answers.
    assert calibration_error_pct(probabilities, right) == pytest.approx(100 * (0.0375 + 0.0375))
    filled: list[Any] = [row for row in reliability(probabilities, right) if row[0]]
    assert filled == [(30, pytest.approx(0.55), 0.5), (10, pytest.approx(0.95), 0.8)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"true_accept_pct": 100}, "true_accept_pct is 100; expected a number between 0 and 100"),
        ({"false_accept_pct": 5}, "false_accept_pct needs at least 50 images of none"),
    ],
)
def test_shares_that_cannot_be_fitted_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_confidence(*drawn(100, 1.0), **options)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="there are 49 images to fit on; expected at least 50"):
        fit_confidence(*drawn(49, 1.0))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "expected an object with temperature"),
        ({"temperature": 0}, "temperature is 0; expected a number above 0"),
        ({"temperature": "1"}, "temperature is '1'; expected a number"),
        ({"temperature": 1, "threshold": math.nan}, "threshold is nan"),
    ],
)
def test_damaged_records_are_refused(record: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Confidence.from_dict(record)


def test_a_record_survives_the_round_trip() -> None:
    known = Confidence(temperature=0.7, threshold=3.5, true_accept_pct=95.0, num_images=100)
    assert Confidence.from_dict(known.to_dict() | {"later": 1}) == known
