"""The option values of a search, without slow imports."""

from __future__ import annotations

from typing import Literal

# The bins of cost that a round samples: of equal width (the paper), of equally many candidates,
# none; or the best within each limit in turn.
Bins = Literal["equal", "quantile", "none", "limits"]
