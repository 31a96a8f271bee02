"""The margin that limits on latency get, because a latency table predicts with an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from fbnetv3.search.cost.latency_table import LatencyTable

from .config import SearchConfig
from .limit import limit_text
from .problem import LATENCY

Bounds = Mapping[str, tuple[float, float]]
# A table with a larger error orders networks poorly, whatever the margin.
MUCH_PCT = 15.0


def keep_margin(bounds: Bounds, table: LatencyTable) -> dict[str, tuple[float, float]]:
    """Returns bounds on predicted latency that a network with the table's mean error still keeps.

    Bounds on other costs stay. Without a known error there is no margin.
    """
    kept = dict(bounds)
    if LATENCY in kept:
        low, high = kept[LATENCY]
        factor = 1 + (table.error_pct or 0.0) / 100
        kept[LATENCY] = (low * factor if low > 0 else low, high / factor if high > 0 else high)
    return kept


def with_margins(config: SearchConfig, table: LatencyTable) -> SearchConfig:
    """Returns a search config with margins in all of its bounds."""
    return dataclasses.replace(
        config,
        within=keep_margin(config.within, table),
        limits=tuple(keep_margin(limit, table) for limit in config.limits),
    )


def margin_note(table: LatencyTable, limits: Sequence[Bounds]) -> str:
    """Returns what a person should know of limits on latency, empty if there is none."""
    timed = [limit for limit in limits if LATENCY in limit]
    if not timed:
        return ""
    if table.error_pct is None:
        return (
            "warning: the error of this latency table is not known, so limits on latency have no "
            "margin; measure it with fbnetv3-search latency-table"
        )
    held = f"{table.error_pct:.1f} % on {table.num_networks[1]} models that were held out"
    pairs = "; ".join(
        f"{limit_text({LATENCY: limit[LATENCY]})} is searched as "
        f"{limit_text({LATENCY: keep_margin(limit, table)[LATENCY]}, '{:.4g}'.format)}"
        for limit in timed
    )
    note = f"the latency table is off by {held}: {pairs}"
    if table.error_pct <= MUCH_PCT:
        return note
    return f"warning: {note}; measure it again on an idle machine, with more --networks"
