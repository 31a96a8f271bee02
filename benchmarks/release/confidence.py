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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.records import write
from fbnetv3.deploy.confidence import calibration_error_pct, energy, fit_confidence
from fbnetv3.images.labels import class_ids
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

_Scores = NDArray[np.float64]


def _shares(logits: _Scores) -> _Scores:
    return np.exp(logits - energy(logits)[:, None])


def alternatives(own: _Scores, labels: NDArray[np.int64]) -> dict[str, Any]:
    """Returns score functions of logits, the higher the likelier of one of the classes.

    Args:
        own: (N, K) logits that those with parameters are fitted on.
        labels: (N,) their classes.
    """
    means = np.stack([own[labels == k].mean(0) for k in range(own.shape[1])])
    precision = np.linalg.pinv(np.cov((own - means[labels]).T))

    def nearest(z: _Scores) -> _Scores:
        gaps = z[:, None] - means
        found: _Scores = -np.einsum("nki,ij,nkj->nk", gaps, precision, gaps).min(1)
        return found

    def entropy(z: _Scores) -> _Scores:
        shares = _shares(z)
        found: _Scores = (shares * np.log(shares + 1e-12)).sum(1)
        return found

    return {
        "energy": energy,
        "largest logit": lambda z: z.max(1),
        "largest probability": lambda z: _shares(z).max(1),
        "negative entropy": entropy,
        "margin of the logits": lambda z: np.sort(z, 1)[:, -1] - np.sort(z, 1)[:, -2],
        "Mahalanobis distance of the logits": nearest,
    }


def compared(fit: _Scores, labels: Any, held: _Scores, foreign: _Scores) -> dict[str, Any]:
    """Returns each score's ranking of held-out images above foreign ones, and false accepts."""
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
    images = open_images(data, "val")
    collector = AnswerCollector(network, images, keep_logits=True)
    evaluate(network, images, hardware=hardware, on_logits=collector.add)
    stored, labels = collector.logits_and_outputs()
    index = {identifier: number for number, identifier in enumerate(class_ids("imagenet1k"))}
    paths = sorted(folder.rglob("*.JPEG"))
    photos, damaged = foreign_logits(network, paths, hardware=hardware)
    assert not damaged, damaged
    classes = np.array([index[path.parent.name] for path in paths])
    inside = np.isin(classes, list(OF_CIFAR10))
    foreign = photos[~inside & ~np.isin(classes, list(UNCLEAR))].astype(np.float64)
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
        "scores": compared(logits[fit], labels[fit], logits[held], foreign),
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
