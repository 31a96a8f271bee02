"""What the database of a search says of its rounds, trials and labels; nothing here writes.

The tables are those of `store`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .trials import Batch, Labels, State, Trial


class Queries:
    """The questions that a `Store` answers."""

    _database: sqlite3.Connection

    def batches(self) -> list[Batch]:
        """Returns all rounds in order."""
        return self._batches("1", [])

    def batch(self, number: int) -> Batch:
        """Returns one round."""
        return self._batches("number=?", [number])[0]

    def _batches(self, where: str, values: list[Any]) -> list[Batch]:
        rows = self._database.execute(
            f"SELECT number, kind, rng_state, predictor FROM batch WHERE {where} ORDER BY number",
            values,
        )
        return [Batch(n, kind, json.loads(state), name) for n, kind, state, name in rows]

    def trials(self, *states: State, batch: int | None = None) -> list[Trial]:
        """Returns trials in the order of their proposal: of some states, of one round, or all."""
        where, values = ["1"], list[Any](states)
        if states:
            where.append(f"state IN ({','.join('?' * len(states))})")
        if batch is not None:
            where.append("batch=?")
            values.append(batch)
        return self._select(" AND ".join(where), values)

    def _select(self, where: str, values: list[Any]) -> list[Trial]:
        rows = self._database.execute(
            "SELECT seq,id,batch,slot,genes,costs,seed,epochs,predicted,origin,state,attempt,"
            f"failures,started,ended,reason,fidelity FROM trial WHERE {where} ORDER BY seq",
            values,
        )
        return [
            Trial(
                *row[:4], tuple(np.frombuffer(row[4], "<i2").tolist()), json.loads(row[5]), *row[6:]
            )  # type: ignore[call-arg]  # seventeen columns for seventeen fields
            for row in rows
        ]

    def trial(self, seq: int) -> Trial:
        """Returns one trial."""
        return self._select("seq=?", [seq])[0]

    def counts(self) -> dict[str, int]:
        """Returns the number of trials in each state."""
        rows = self._database.execute("SELECT state, COUNT(*) FROM trial GROUP BY state")
        return {"queued": 0, "leased": 0, "done": 0, "failed": 0, **dict(rows.fetchall())}

    def known_genes(
        self, upto: int | None = None, *, fidelity: float | None = None
    ) -> NDArray[np.int16]:
        """Returns (N, genes) of every trial, failed ones too: none of them is proposed again.

        Args:
            upto: the last round that counts; None is all.
            fidelity: keeps trials of this share, and those of any share that failed; None is all.
        """
        rows = self._database.execute(
            "SELECT genes FROM trial WHERE (?1 IS NULL OR batch <= ?1) "
            "AND (?2 IS NULL OR fidelity = ?2 OR state = 'failed') ORDER BY seq",
            (upto, fidelity),
        ).fetchall()
        return _matrix([row[0] for row in rows])

    def curve(self, seq: int) -> list[float | None]:
        """Returns a trial's labels by epoch, the latest attempt's where there are several."""
        rows = self._database.execute(
            "SELECT epoch, value FROM metric WHERE trial=? ORDER BY epoch, attempt", (seq,)
        )
        return list(dict(rows.fetchall()).values())

    def labels(
        self,
        epoch: int | None = None,
        *,
        kinds: Sequence[str] = (),
        before: int | None = None,
        seed: int | None = None,
        fidelity: float | None = 1.0,
    ) -> Labels:
        """Returns the labels of finished trials, in the order of their proposal.

        A trial that was trained for less than `epoch` epochs has no label and is left out.

        Args:
            epoch: number of trained epochs; None: a trial's last. Imported labels, of which
                there is one only, always count, and so do the last ones of rungs.
            kinds: of rounds; empty keeps all.
            before: keeps rounds with a lower number.
            seed: keeps trials of the search with this seed.
            fidelity: keeps trials of this share of the final training; None keeps all shares.
        """
        rows = self._database.execute(
            f"""
            SELECT t.seq, t.genes, t.fidelity, (
                SELECT m.value FROM metric m WHERE m.trial = t.seq AND m.epoch <= w.epoch
                ORDER BY m.epoch DESC, m.attempt DESC LIMIT 1)
            FROM trial t JOIN batch b ON b.number = t.batch
            JOIN (SELECT seq, CASE WHEN :epoch IS NULL OR origin <> 'search' OR fidelity < 1
                  THEN epochs ELSE :epoch END AS epoch FROM trial) w ON w.seq = t.seq
            WHERE t.state = 'done' AND t.epochs >= w.epoch
            AND (:before IS NULL OR b.number < :before)
            AND (:fidelity IS NULL OR t.fidelity = :fidelity)
            AND (:seed IS NULL OR t.seed = :seed OR t.origin <> 'search')
            {f"AND b.kind IN ({','.join(repr(str(kind)) for kind in kinds)})" if kinds else ""}
            ORDER BY t.seq
            """,
            {"epoch": epoch, "before": before, "seed": seed, "fidelity": fidelity},
        ).fetchall()
        return Labels(
            np.array([row[0] for row in rows], np.int64),
            _matrix([row[1] for row in rows]),
            np.array([np.nan if row[3] is None else row[3] for row in rows], np.float64),
            np.array([row[2] for row in rows], np.float64),
        )

    def best_label(self, bounds: Mapping[str, tuple[float, float]], epoch: int) -> float | None:
        """Returns the highest label of finished trials after `epoch` epochs, or None.

        Rungs, whose labels are not comparable, do not count.

        Args:
            bounds: cost -> (lowest, highest) that a trial must keep.
            epoch: number of trained epochs. Imported labels always count.
        """
        where, values = ["t.state = 'done'", "t.fidelity = 1"], list[Any]([epoch])
        for name, ends in bounds.items():
            for sign, end in zip((">=", "<="), ends, strict=True):
                if np.isfinite(end):
                    where.append(f"json_extract(t.costs, ?) {sign} ?")
                    values += [f'$."{name}"', end]
        row = self._database.execute(
            "SELECT MAX(m.value) FROM trial t JOIN metric m ON m.trial = t.seq AND m.epoch = "
            f"CASE WHEN t.origin = 'search' THEN ? ELSE t.epochs END WHERE {' AND '.join(where)}",
            values,
        ).fetchone()
        return None if row[0] is None else float(row[0])

    def stage(self, name: str) -> dict[str, Any] | None:
        """Returns what a stage found, or None if it has not ended."""
        row = self._database.execute("SELECT content FROM stage WHERE name=?", (name,)).fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def stages(self) -> dict[str, dict[str, Any]]:
        """Returns what all stages found, in the order of their end."""
        rows = self._database.execute("SELECT name, content FROM stage ORDER BY finished, rowid")
        return {name: json.loads(content) for name, content in rows}


def _matrix(rows: list[bytes]) -> NDArray[np.int16]:
    width = len(rows[0]) // 2 if rows else 0
    return np.frombuffer(b"".join(rows), "<i2").reshape(len(rows), width).astype(np.int16)
