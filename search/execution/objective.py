"""The protocol of objectives, and tables of measured labels.

A table is a CSV, npz or Parquet file with a column of values (not indices) for each gene of a
space, whose cells may hold anything where the gene has no meaning, and any of these columns:

* `cost:NAME`: a cost that is known without training, such as `cost:macs`.
* `label`, or `label:SEED`, or `label:SEED:EPOCH`: the label of a training, higher is better. Seeds
  are integers from 0, epochs count from 1. An empty cell is a training that was not run; a row of
  which none was run to its end is left out.
* in an npz, `label` may be an array (rows, seeds) or (rows, seeds, epochs) instead.
* `steps`: the length of a row's training, in optimiser steps. Labels of trainings of different
  lengths cannot be compared, so that one length must be chosen.

Any other column can choose rows. A candidate may have several rows, as further seeds.

Labels are accuracies in percent unless the space's file sets another target:
`{"space": {...}, "target": "raw"}`.
"""

from __future__ import annotations

import inspect
import json
import math
import zipfile
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fbnetv3._internal.csv_text import read_csv
from fbnetv3._internal.json_record import read_json
from fbnetv3._internal.messages import counted, one_line, shown
from fbnetv3._internal.optional import missing
from fbnetv3.search.space.space import Floats, Mask, Matrix, Space

# Before the name of a gene, where a column of the same name says something else.
GENE = "gene:"
FORMATS = (".csv", ".npz", ".parquet")
NO_FIDELITY = (
    "the objective's evaluate takes no fidelity, so that it has no rungs; expected "
    "evaluate(genes, *, seed, epochs, fidelity), or a search without them (policy early_stop)"
)


class ObjectiveError(ValueError):
    """The objective gives what no search can use, so that every other trial would fail too."""


class Objective(Protocol):
    """Evaluates candidates.

    It may also have these attributes, for new searches: `epochs` of a full training (default 1),
    `num_classes` for the cost model (default 1,000), `target` as in `TableObjective`, and `costs`,
    a function of candidates (P, num_genes) that replaces the cost model.

    For searches with rungs, `evaluate` also takes `fidelity`, the share of the final training's
    steps. Below 1 it is a rung: a training with a schedule of its own, which ends after `epochs`
    epochs. A method `epochs_at(fidelity)`, if there is one, returns how many these are (default:
    that share of the attribute `epochs`), and a method `usual_rung(fidelity)` the share to take
    where none is asked for (default: that one).
    """

    def evaluate(self, genes: Sequence[int], *, seed: int, epochs: int) -> Iterable[float]:
        """Yields the label after each epoch of one training, higher is better.

        Args:
            genes: one candidate's indices.
            seed: random seed of initialisation and data order.
            epochs: number of epochs to train and yield. Fewer than a full training has cut its
                schedule off.
        """


def takes_fidelity(objective: Objective) -> bool:
    """Returns whether an objective has rungs, shorter trainings with schedules of their own."""
    try:
        names = inspect.signature(objective.evaluate).parameters.values()
    except (TypeError, ValueError):  # some functions of C have none
        return False
    return any(one.name == "fidelity" or one.kind is one.VAR_KEYWORD for one in names)


def epochs_of_rung(objective: Objective, fidelity: float, epochs: int) -> int:
    """Returns the number of labels of a rung.

    Args:
        objective: the objective.
        fidelity: share of the final training's steps.
        epochs: number of labels of a full training.

    Raises:
        ValueError: the objective has no rungs, or none that is so short.
    """
    if not takes_fidelity(objective):
        raise ValueError(NO_FIDELITY)
    own = getattr(objective, "epochs_at", None)
    return share_of(epochs, fidelity) if own is None else int(own(fidelity))


def share_of(epochs: int, fidelity: float) -> int:
    """Returns the least number of epochs with at least a share of the steps of `epochs`."""
    return max(1, math.ceil(round(fidelity * epochs, 6)))


class TableObjective:
    """Labels of earlier trainings, one or more for each candidate.

    Attributes:
        space: the search space.
        target: "log_error" for labels that are accuracies in percent, else "raw".
        rows: (N, num_genes) the candidates of the table, canonical and distinct.
        labels: (N, seeds, epochs), NaN where no training was run. Candidates of which none was run
            to its end are left out.
        known: name -> (N,) costs.
        left_out: number of rows without a label.

    Raises:
        ValueError: sizes do not match, or there is no label.
    """

    def __init__(
        self,
        space: Space,
        rows: Matrix,
        labels: Floats,
        known: Mapping[str, Floats],
        *,
        target: str = "log_error",
    ) -> None:
        wide = labels.reshape(len(labels), -1, 1) if labels.ndim < 3 else labels
        if len(wide) != len(rows) or any(len(value) != len(rows) for value in known.values()):
            raise ValueError(f"{len(rows)} candidates, {len(wide)} labels; expected equal lengths")
        made = _have_labels(wide)
        self.left_out = int((~made).sum())
        if not made.any():
            raise ValueError("the table has no labels")
        if not made.all():
            rows, wide = rows[made], wide[made]
            known = {name: np.asarray(value)[made] for name, value in known.items()}
        canonical = space.canonical(rows)
        hashes = space.hashes(canonical)
        order, first, back = np.unique(hashes, return_index=True, return_inverse=True)
        self.space, self.target = space, target
        self.rows = canonical[first]
        # Some tables repeat a candidate; it keeps every label that is not a copy.
        self.labels = _repeats(back, first, wide)
        self.known = {name: np.asarray(value)[first] for name, value in known.items()}
        self._hashes = order

    def __str__(self) -> str:
        """What it has, one line."""
        text = f"the table has {counted(len(self.rows), 'candidate')}"
        rows = counted(self.left_out, "row")
        return f"{text}; {rows} without a label left out" if self.left_out else text

    @property
    def epochs(self) -> int:
        """Length of the learning curves."""
        return int(self.labels.shape[2])

    def epochs_at(self, fidelity: float) -> int:
        """Returns the number of labels of a rung, which is a part of a curve.

        Raises:
            ValueError: it is the whole curve.
        """
        epochs = share_of(self.epochs, fidelity)
        if epochs == self.epochs:
            raise ValueError(
                f"the table has curves of {counted(self.epochs, 'epoch')}, of which a rung of "
                f"{fidelity:g} would be all; expected longer curves, a smaller rung, or a search "
                "without rungs (trainings in place of cost or time)"
            )
        return epochs

    def evaluate(
        self, genes: Sequence[int], *, seed: int, epochs: int, fidelity: float = 1.0
    ) -> list[float]:
        """Returns the labels of one training after epochs 1 to `epochs`.

        A seed always picks the same one of a candidate's trainings, and consecutive seeds pick each
        of them once before one comes again. A table has no trainings with shorter schedules: its
        rungs are the first parts of its curves.

        Raises:
            ValueError: the table lacks the candidate, or its curves are shorter.
        """
        row = np.asarray(genes, np.int16)[None]
        index = self.find(row)[0]
        if index < 0:
            raise ValueError(f"the table has no candidate {self.space.values(row[0])}")
        curves = self.labels[index]
        made = curves[~np.isnan(curves).all(axis=1)]
        if not 1 <= epochs <= self.epochs:
            raise ValueError(f"epochs is {epochs}; the table has curves of {self.epochs}")
        pick = np.random.default_rng(int(index)).permutation(len(made))[seed % len(made)]
        return [float(value) for value in made[pick, :epochs]]

    def find(self, rows: Matrix) -> npt.NDArray[np.int64]:
        """Returns the table's index of each candidate (P, num_genes), -1 if it is not there."""
        hashes = self.space.hashes(rows)
        index = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        return np.where(self._hashes[index] == hashes, index, -1)

    def costs(self, rows: Matrix) -> dict[str, Floats]:
        """Returns name -> (P,); NaN for candidates that the table lacks."""
        index = self.find(rows)
        return {
            name: np.where(index >= 0, value[index].astype(np.float64), np.nan)
            for name, value in self.known.items()
        }

    def allowed(self, rows: Matrix) -> Mask:
        """Returns (P,): whether the table has each candidate."""
        return self.find(rows) >= 0

    def truth(self) -> Floats:
        """Returns (N,) the mean over seeds of each candidate's last label."""
        return np.asarray(np.nanmean(self.labels[:, :, -1], axis=1))


def _have_labels(labels: Floats) -> Mask:
    """Returns (rows,): whether a training was run to its end, of labels (rows, seeds, epochs)."""
    return np.asarray(~np.isnan(labels[:, :, -1]).all(axis=1))


def _repeats(back: npt.NDArray[np.int64], first: npt.NDArray[np.int64], labels: Floats) -> Floats:
    """Returns labels (N, seeds, epochs) by candidate, those of repeated rows as further seeds."""
    if len(first) == len(back):
        return labels[first]
    gathered: list[list[Floats]] = [[] for _ in first]
    for row, candidate in enumerate(back.ravel().tolist()):
        parts = gathered[candidate]
        copy = any(np.array_equal(labels[row], other, equal_nan=True) for other in parts)
        if not copy:
            parts.append(labels[row])
    seeds = max(sum(len(part) for part in parts) for parts in gathered)
    out = np.full((len(first), seeds, labels.shape[2]), np.nan)
    for candidate, parts in enumerate(gathered):
        joined = np.concatenate(parts)
        out[candidate, : len(joined)] = joined
    return out


def load_table(
    space: str | Path, table: str | Path, where: Mapping[str, str] | None = None
) -> TableObjective:
    """Returns the objective of a space's JSON file and a table (format: see the module).

    Args:
        space: the space's file.
        table: the table's file.
        where: column -> value; only rows with all of these are taken.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a column is missing, a cell is not a value of its gene, no row is chosen, or
            the chosen rows are trainings of several lengths.
        ImportError: the table is a Parquet file, and pyarrow is not installed.
    """
    space = Path(space)
    table = Path(table)
    for path in (space, table):
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
    made, target = _read_space(space)
    columns = _chosen(_read_columns(table), where or {}, table.name)
    if not len(next(iter(columns.values()), ())):
        raise ValueError(f"{table.name} has no rows; expected one for each training")
    rows = np.empty((len(next(iter(columns.values()), ())), len(made.genes)), np.int16)
    for number, gene in enumerate(made.genes):
        column = gene_column(gene.name, columns)
        if column not in columns:
            raise ValueError(
                f"{table.name} lacks a column for gene {gene.name!r}; it has {_some(list(columns))}"
            )
        indices = {_cell(value): index for index, value in enumerate(gene.values)}
        for row, value in enumerate(columns[column].tolist()):
            index = indices.get(_cell(value), -1)
            if index < 0 and gene.when is None:
                raise ValueError(
                    f"{table.name}, row {row + 1}: {gene.name} is {value!r}; expected one of "
                    f"{', '.join(map(str, gene.values))}"
                )
            rows[row, number] = max(index, 0)
    labels = _labels(columns, table.name)
    known = {}
    for name, value in columns.items():
        if name.startswith("cost:"):
            costs = _floats(value, name, table.name)
            known[name.removeprefix("cost:")] = costs
            unknown = np.nonzero(np.isnan(costs) & _have_labels(labels))[0]
            if len(unknown):
                raise ValueError(
                    f"{table.name}, row {unknown[0] + 1}: {name} is not given; expected a number "
                    "in every row that has a label"
                )
    return TableObjective(made, rows, labels, known, target=target)


def _chosen(
    columns: dict[str, npt.NDArray[Any]], where: Mapping[str, str], name: str
) -> dict[str, npt.NDArray[Any]]:
    """Returns the rows of a table with given values, all of one length."""
    for column, wanted in where.items():
        if column not in columns:
            raise ValueError(
                f"{name} has no column {column!r}; expected one of {_some(list(columns))}"
            )
        cells = np.array([_cell(value) for value in columns[column].tolist()])
        keep = cells == _cell(wanted)
        if not keep.any():
            raise ValueError(
                f"{name} has no row where {column} is {wanted!r}; it has "
                f"{_some(sorted({str(value) for value in columns[column].tolist()}))}"
            )
        columns = {one: value[keep] for one, value in columns.items()}
    lengths = {_cell(value) for value in columns.get("steps", np.array([])).tolist()}
    if len(lengths) > 1:
        shown = ", ".join(f"{float(one):g}" for one in sorted(lengths, key=float))
        raise ValueError(
            f"{name} has trainings of {shown} steps, whose labels cannot be compared; choose one "
            "length, such as --where steps=" + shown.split(", ")[0]
        )
    return columns


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if names[8:] else "")


def gene_column(name: str, columns: Container[str]) -> str:
    """Returns the column of a gene: with a prefix where that tells it from another of its name."""
    return GENE + name if GENE + name in columns else name


def _read_space(path: Path) -> tuple[Space, str]:
    text = path.read_bytes()
    fields = read_json(text, path.name)
    if isinstance(fields, dict) and "space" in fields:
        return Space.from_json(json.dumps(fields["space"])), fields.get("target", "log_error")
    return Space.from_json(text), "log_error"


def _read_columns(path: Path) -> dict[str, npt.NDArray[Any]]:
    if path.suffix == ".csv":
        names, lines = read_csv(path)
        return {name: np.array([one.cells[n] for one in lines]) for n, name in enumerate(names)}
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
            raise ValueError(f"{path.name} is not an npz file of plain arrays") from error
    if path.suffix == ".parquet":
        try:
            from pyarrow import parquet  # type: ignore[import-untyped,unused-ignore]
        except ImportError as error:
            raise missing("pyarrow", error) from error
        try:
            read = parquet.read_table(path)
        except (ValueError, OSError) as error:
            raise ValueError(f"{path.name} is not a Parquet file: {one_line(str(error))}") from None
        return {name: read[name].to_numpy() for name in read.column_names}
    raise ValueError(f"{path.name} has an unknown format; expected {', '.join(FORMATS)}")


def _labels(columns: Mapping[str, npt.NDArray[Any]], name: str) -> Floats:
    """Returns labels (rows, seeds, epochs)."""
    if "label" in columns:
        labels = _floats(columns["label"], "label", name)
        return labels.reshape(len(labels), -1, 1) if labels.ndim < 3 else labels
    found = {}
    for column, value in columns.items():
        head, *rest = column.split(":")
        if head == "label" and 1 <= len(rest) <= 2 and all(part.isdigit() for part in rest):
            seed, epoch = int(rest[0]), int(rest[1]) if len(rest) == 2 else 1
            found[seed, epoch] = _floats(value, column, name)
    if not found:
        raise ValueError(f"{name} has no labels; expected a column label, label:0 or label:0:1")
    seeds = sorted({seed for seed, _ in found})
    epochs = max(epoch for _, epoch in found)
    num = len(next(iter(found.values())))
    out = np.full((num, len(seeds), epochs), np.nan)
    for (seed, epoch), value in found.items():
        out[:, seeds.index(seed), epoch - 1] = value
    return out


def _floats(values: npt.NDArray[Any], column: str, name: str) -> Floats:
    """Returns a column of numbers, NaN for empty cells."""
    if values.dtype.kind in "US":
        values = np.where(np.char.strip(values) == "", "nan", values)
    try:
        out = values.astype(np.float64)
    except (TypeError, ValueError):
        row, cell = next((n, v) for n, v in enumerate(values.tolist(), 1) if not _is_float(v))
        raise ValueError(
            f"{name}, row {row}: {column} is {shown(cell)}; expected a number, or an empty cell"
        ) from None
    if np.isinf(out).any():
        row = int(np.argwhere(np.isinf(out))[0, 0]) + 1
        raise ValueError(f"{name}, row {row}: {column} is infinite; expected a finite number")
    return out


def _is_float(cell: Any) -> bool:
    try:
        float("nan" if cell is None else cell)
    except (TypeError, ValueError):
        return False
    return True


def _cell(value: Any) -> str:
    """Returns a cell as text that does not depend on the file format: 3, 3.0 and "3" are equal."""
    text = str(value).strip()
    try:
        return repr(float(text)) if not isinstance(value, bool) else text.lower()
    except ValueError:
        return text.lower() if text.lower() in ("true", "false") else text
