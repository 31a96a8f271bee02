"""Fits temperature and threshold of embedded weights, and measures both on other images.

    python -m benchmarks.release.confidence fbnetv3_nano.cifar10 --data D --photos ZIP --out FILE

Of CIFAR-10's test images half are fitted on and half measured. The photos are one of each ImageNet
class; those of CIFAR-10's classes, and those where opinions differ (wolves, wild cats, antelopes,
buses, small boats), are no test of "none of these" and are counted apart. Half of the others fit
the threshold for the chosen rate of false accepts, half measure it. Prints the record for
`weights.py`.
"""

from __future__ import annotations

import argparse
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.records import write
from fbnetv3.deploy.confidence import calibration_error_pct, energy, fit_confidence
from fbnetv3.images.labels import class_ids
from fbnetv3.models.model import FBNetV3
from fbnetv3.search.data.datasets import open_images
from fbnetv3.search.training.answers import AnswerCollector, foreign_logits
from fbnetv3.search.training.config import Hardware
from fbnetv3.search.training.evaluate import evaluate, wilson_pct
from fbnetv3.search.training.networks import open_network

# Indices of ImageNet classes: dogs, cats, birds, frogs, horse, aeroplanes, cars, trucks, ships.
OF_CIFAR10 = frozenset(
    {*range(151, 269), *range(281, 286), *range(7, 25), *range(80, 101), *range(127, 147)}
    | {30, 31, 32, 339, 404, 895, 407, 436, 468, 511, 609, 627, 656, 661, 705, 751, 817}
    | {555, 569, 675, 864, 867, 403, 484, 510, 554, 625, 628, 724, 780, 814, 871, 914, 833}
)
UNCLEAR = (
    frozenset({*range(269, 281), *range(286, 294), *range(340, 356), 405, 408, 417, 428, 472, 533})
    | {565, 573, 575, 576, 586, 595, 603, 612, 654, 665, 670, 717, 734, 757, 779, 829, 847, 866}
    | {874, 913}
) - OF_CIFAR10
FALSE_ACCEPT_PCT = 20.0
_SEED = 0
# As the papers recommend for ten classes and a few thousand images.
_NEIGHBOURS = 10
_GEN_EXPONENT = 0.1

_Scores = NDArray[np.float64]


def _shares(logits: _Scores) -> _Scores:
    return np.exp(logits - energy(logits)[:, None])


class Outputs(NamedTuple):
    """What a network has of n images: logits (n, K) and pooled features (n, D)."""

    logits: _Scores
    features: _Scores

    def of(self, chosen: NDArray[np.generic]) -> Outputs:
        """Returns those of some images."""
        return Outputs(self.logits[chosen], self.features[chosen])


_Score = Callable[[Outputs], _Scores]


def _directions(features: _Scores) -> _Scores:
    found: _Scores = features / np.linalg.norm(features, axis=1, keepdims=True)
    return found


def alternatives(own: Outputs, labels: NDArray[np.int64]) -> dict[str, _Score]:
    """Returns score functions of outputs, the higher the likelier of one of the classes.

    KL matching: Hendrycks et al. 2022, Scaling OOD Detection for Real-World Settings. GEN: Liu et
    al. 2023, Pushing the Limits of Softmax-Based OOD Detection. Nearest neighbours: Sun et al.
    2022, OOD Detection with Deep Nearest Neighbors.

    Args:
        own: what those with parameters are fitted on.
        labels: (N,) their classes.
    """
    means = np.stack([own.logits[labels == k].mean(0) for k in range(own.logits.shape[1])])
    precision = np.linalg.pinv(np.cov((own.logits - means[labels]).T))
    temperature = fit_confidence(own.logits, labels).temperature
    guessed = own.logits.argmax(1)
    known = _shares(own.logits)
    usual = np.log(np.stack([known[guessed == k].mean(0) for k in range(own.logits.shape[1])]))
    bank = _directions(own.features).astype(np.float32)

    def nearest(found: Outputs) -> _Scores:
        gaps = found.logits[:, None] - means
        score: _Scores = -np.einsum("nki,ij,nkj->nk", gaps, precision, gaps).min(1)
        return score

    def matched(found: Outputs) -> _Scores:
        shares = _shares(found.logits)
        score: _Scores = (shares @ usual.T).max(1) - _information(shares)
        return score

    def neighbours(found: Outputs) -> _Scores:
        alike = _directions(found.features).astype(np.float32) @ bank.T
        score: _Scores = np.partition(alike, -_NEIGHBOURS, axis=1)[:, -_NEIGHBOURS]
        return score

    def spread(found: Outputs) -> _Scores:
        shares = _shares(found.logits)
        score: _Scores = -((shares * (1 - shares)) ** _GEN_EXPONENT).sum(1)
        return score

    return {
        "energy": lambda x: energy(x.logits),
        "energy at the fitted temperature": lambda x: energy(x.logits / temperature),
        "largest logit": lambda x: x.logits.max(1),
        "largest probability": lambda x: _shares(x.logits).max(1),
        "negative entropy": lambda x: _information(_shares(x.logits)),
        "GEN": spread,
        "KL matching": matched,
        "margin of the logits": lambda x: np.diff(np.sort(x.logits, 1)[:, -2:], axis=1)[:, 0],
        "Mahalanobis distance of the logits": nearest,
        "norm of the pooled features": lambda x: np.linalg.norm(x.features, axis=1),
        f"neighbour {_NEIGHBOURS} of the pooled features": neighbours,
    }


def _information(shares: _Scores) -> _Scores:
    found: _Scores = (shares * np.log(shares + 1e-12)).sum(1)
    return found


def compared(fit: Outputs, labels: Any, held: Outputs, foreign: Outputs) -> dict[str, Any]:
    """Returns each score's ranking of held-out images above foreign ones, and both errors."""
    from scipy.stats import rankdata

    found = {}
    for name, function in alternatives(fit, labels).items():
        own, other, fitted = function(held), function(foreign), function(fit)
        ranks = rankdata(np.concatenate([own, other]))[: len(own)]
        above = ranks.sum() - len(own) * (len(own) + 1) / 2
        row = {"auroc_pct": 100 * float(above) / len(own) / len(other)}
        for kept in (90, 95):
            threshold = np.quantile(fitted, 1 - kept / 100)
            row[f"false_accept_pct_at_{kept}"] = 100 * float((other >= threshold).mean())
        for passed in (5, 20):
            threshold = np.quantile(other, 1 - passed / 100)
            row[f"own_rejected_pct_at_{passed}"] = 100 * float((own < threshold).mean())
        found[name] = row
    return found


def _counted(scores: _Scores, threshold: float) -> dict[str, Any]:
    accepted = int((scores >= threshold).sum())
    low, high = wilson_pct(accepted, len(scores))
    return {"pct": 100 * accepted / len(scores), "interval": [low, high], "num": len(scores)}


def measured(name: str, data: Path, folder: Path) -> dict[str, Any]:
    """Returns the fit of some weights and its figures on the other images.

    Args:
        name: of the weights.
        data: `cifar-10-batches-py`.
        folder: a folder of photos for each ImageNet class, named by its identifier.
    """
    hardware = Hardware.of("cpu")
    network = open_network(name, pretrained=True)._replace(confidence=None)
    pooled: list[torch.Tensor] = []
    assert isinstance(network.model, FBNetV3)
    network.model.get_classifier().register_forward_pre_hook(
        lambda _, given: pooled.append(given[0].detach().clone())
    )
    images = open_images(data, "val")
    collector = AnswerCollector(network, images, keep_logits=True)
    evaluate(network, images, hardware=hardware, on_logits=collector.add)
    stored, labels = collector.logits_and_outputs()
    features = torch.cat(pooled).double().numpy()
    pooled.clear()
    index = {identifier: number for number, identifier in enumerate(class_ids("imagenet1k"))}
    paths = sorted(folder.rglob("*.JPEG"))
    photos, damaged = foreign_logits(network, paths, hardware=hardware)
    assert not damaged, damaged
    foreign_features = torch.cat(pooled).double().numpy()
    classes = np.array([index[path.parent.name] for path in paths])
    inside = np.isin(classes, list(OF_CIFAR10))
    outside = ~inside & ~np.isin(classes, list(UNCLEAR))
    foreign = photos[outside].astype(np.float64)
    generator = np.random.default_rng(_SEED)
    order, other = generator.permutation(len(stored)), generator.permutation(len(foreign))
    fit, held = np.split(order, 2)
    fit_other, held_other = np.array_split(other, 2)
    logits = stored.astype(np.float64)
    known = fit_confidence(
        logits[fit], labels[fit], others=foreign[fit_other], false_accept_pct=FALSE_ACCEPT_PCT
    )
    assert known.threshold is not None
    right = logits[held].argmax(1) == labels[held]
    own = energy(logits[held])
    of_own = Outputs(logits, features)
    return {
        "weights": name,
        "confidence": known.to_dict(),
        "num_fit": len(fit),
        "num_foreign_fit": len(fit_other),
        "num_held_out": len(held),
        "ece_before_pct": calibration_error_pct(_shares(logits[held]).max(1), right),
        "ece_after_pct": calibration_error_pct(
            _shares(logits[held] / known.temperature).max(1), right
        ),
        "accepted": _counted(own, known.threshold),
        "accuracy_of_accepted_pct": 100 * float(right[own >= known.threshold].mean()),
        "accuracy_pct": 100 * float(right.mean()),
        "false_accepts": _counted(energy(foreign[held_other]), known.threshold),
        "accepted_of_all_photos": _counted(energy(photos), known.threshold),
        "accepted_of_photos_of_its_classes": _counted(energy(photos[inside]), known.threshold),
        "scores": compared(
            of_own.of(fit),
            labels[fit],
            of_own.of(held),
            Outputs(foreign, foreign_features[outside]),
        ),
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="folder cifar-10-batches-py")
    parser.add_argument("--photos", type=Path, required=True, help="ZIP of ImageNet photos")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        with zipfile.ZipFile(args.photos) as archive:
            archive.extractall(work)
        found = [measured(name, args.data, Path(work)) for name in args.names]
    for row in found:
        print(f"{row['weights']}: {row['confidence']}")
    write(args.out, {"seed": _SEED, "weights": found})


if __name__ == "__main__":
    main()
