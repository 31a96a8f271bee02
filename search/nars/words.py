"""The fixed words of a search; nothing slow is imported for them."""

from __future__ import annotations

from typing import Literal

# How a round is spread over a cost: bins of equal width (the paper's), of equally many candidates,
# none; or the best within each limit in turn.
Bins = Literal["equal", "quantile", "none", "limits"]
