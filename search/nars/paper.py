"""The constants of the paper's joint search (arXiv 2006.02049, section 4.1), for `--preset paper`.

All are in the text but two, which are how this package reads it: "T = 5" is five rounds after the
random one, and each limit's best candidate is trained once. What the text leaves open is as
everywhere here: ranks agree by Spearman's correlation, from an epoch on and with a bootstrap bound,
and evolution starts from the pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MACS = "macs_paper"
# Of `SearchConfig`.
JOINT: Mapping[str, Any] = {
    "pool": 20_000,
    "batch": 48,
    "rounds": 5,
    "epochs": 150,
    "early_stop": True,
    "threshold": 0.92,
    "bins": "equal",
    "bin_by": _MACS,
    "within": {_MACS: (4e8, 8e8)},
    "limits": tuple({_MACS: (-float("inf"), most)} for most in (4.5e8, 5.5e8, 6.5e8, 7.5e8)),
    "predictor": "mlp",
    "population": 100,
    "children": 24,
    "keep": 40,
    "top": 1,
    "final_seeds": 1,
}
# Of `TrainObjective`: classes and held-out images of ImageNet.
DATA: Mapping[str, Any] = {"num_classes": 200, "num_val": 10_000}
