"""Tables of labels: forms, seeds, curves, refusals."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from fbnetv3.search.execution.objective import TableObjective, load_table
from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.space import Space

SPACE = Space(
    name="toy",
    genes=(
        Gene("op", ("skip", "conv")),
        Gene.grid("width", 8, 24, 8),
        Gene("lr", (0.1, 0.01), kind="ordered", group="recipe"),
        Gene("flag", (True, False), when=("op", ("conv",))),
    ),
)
COLUMNS = ("op", "width", "lr", "flag", "cost:macs", "label:0", "label:1")
RECORDS: list[dict[str, object]] = [
    dict(zip(COLUMNS, cells, strict=True))
    for cells in (
        ("skip", 8, 0.1, "", 5, 70.5, ""),
        ("conv", 16, 0.01, "true", 9, 80, 82),
        ("conv", 24, 0.1, "False", 12, 81, 79),
    )
]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    space, table = tmp_path / "space.json", tmp_path / "table.csv"
    space.write_text(SPACE.to_json())
    write(table, RECORDS)
    return space, table


def write(path: Path, records: list[dict[str, object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)


def row(**values: object) -> list[int]:
    return [int(index) for index in SPACE.from_values(values)]


def test_labels_and_costs_are_those_of_the_file(files: tuple[Path, Path]) -> None:
    table = load_table(*files)
    skip = row(op="skip", width=8, lr=0.1)
    conv = row(op="conv", width=16, lr=0.01, flag=True)
    absent = row(op="conv", width=8, lr=0.01, flag=True)
    batch = np.array([skip, conv, absent], np.int16)
    assert table.allowed(batch).tolist() == [True, True, False]
    assert table.costs(batch)["macs"][:2].tolist() == [5, 9]
    assert np.isnan(table.costs(batch)["macs"][2])
    assert list(table.evaluate(skip, seed=3, epochs=1)) == [70.5]
    seen = {table.evaluate(conv, seed=seed, epochs=1)[0] for seed in range(20)}
    assert seen == {80.0, 82.0}
    assert table.evaluate(conv, seed=3, epochs=1) == table.evaluate(conv, seed=3, epochs=1)
    assert table.truth()[table.find(batch)[:2]].tolist() == [70.5, 81.0]
    with pytest.raises(ValueError, match="no candidate"):
        table.evaluate(absent, seed=0, epochs=1)


@pytest.mark.parametrize(
    "suffix", [".npz", pytest.param(".parquet", marks=pytest.mark.needs("pyarrow"))]
)
def test_npz_and_parquet_hold_the_same_as_csv(files: tuple[Path, Path], suffix: str) -> None:
    space, table = files
    columns = {name: np.array([record[name] for record in RECORDS[1:]]) for name in RECORDS[0]}
    if suffix == ".npz":
        np.savez(table.with_suffix(suffix), allow_pickle=False, **columns)
    else:
        import pyarrow
        import pyarrow.parquet

        plain = {name: [str(value) for value in column] for name, column in columns.items()}
        pyarrow.parquet.write_table(pyarrow.table(plain), table.with_suffix(suffix))
    write(table, RECORDS[1:])
    csv, other = load_table(space, table), load_table(space, table.with_suffix(suffix))
    assert np.array_equal(csv.rows, other.rows)
    assert np.array_equal(csv.labels, other.labels)
    assert np.array_equal(csv.known["macs"], other.known["macs"])


def test_curves_are_read_by_seed_and_epoch(files: tuple[Path, Path]) -> None:
    space, table = files
    records = []
    for record in RECORDS:
        kept = {k: v for k, v in record.items() if not k.startswith("label")}
        curve = {f"label:{s}:{e}": 10 * s + e for s in (0, 1) for e in (1, 2, 3)}
        records.append({**kept, **curve})
    write(table, records)
    made = load_table(space, table)
    assert made.epochs == 3
    conv = row(op="conv", width=16, lr=0.01, flag=True)
    curves = {tuple(made.evaluate(conv, seed=seed, epochs=2)) for seed in range(20)}
    assert curves == {(1.0, 2.0), (11.0, 12.0)}
    with pytest.raises(ValueError, match="curves of 3"):
        made.evaluate(conv, seed=0, epochs=4)


def test_copies_of_a_candidate_are_one_and_its_trainings_are_kept() -> None:
    rows = np.array([[0, 1, 0, 0], [0, 1, 0, 1], [0, 1, 0, 1], [1, 0, 0, 0]], np.int16)
    labels = np.array([[50.0, 51], [50, 51], [60, 61], [70, 71]])
    made = TableObjective(SPACE, rows, labels, {})
    assert len(made.rows) == 2
    place = made.find(rows[:1])[0]
    assert sorted(made.labels[place].ravel().tolist()) == [50, 51, 60, 61]


def test_space_file_may_state_the_target(files: tuple[Path, Path]) -> None:
    space, table = files
    assert load_table(space, table).target == "log_error"
    space.write_text(json.dumps({"space": SPACE.to_dict(), "target": "raw"}))
    assert load_table(space, table).target == "raw"


def test_rows_are_chosen_by_columns(files: tuple[Path, Path]) -> None:
    space, table = files
    kept = [{k: v for k, v in one.items() if not k.startswith("label")} for one in RECORDS]
    write(
        table,
        [
            {**one, "label": 10 * steps + n, "steps": steps, "study": study}
            for n, one in enumerate(kept)
            for steps, study in ((2, "short"), (3, "long"))
        ],
    )
    with pytest.raises(ValueError, match=r"trainings of 2, 3 steps.*--where steps=2"):
        load_table(space, table)
    for where in ({"steps": "3"}, {"study": "long"}, {"steps": "3.0", "study": "long"}):
        made = load_table(space, table, where)
        assert sorted(made.labels.ravel().tolist()) == [30 + n for n in range(len(kept))]
    with pytest.raises(ValueError, match="no row where steps is '4'; it has 2, 3"):
        load_table(space, table, {"steps": "4"})
    with pytest.raises(ValueError, match="no row where steps is '2'"):
        load_table(space, table, {"study": "long", "steps": "2"})
    with pytest.raises(ValueError, match="no column 'stepps'"):
        load_table(space, table, {"stepps": "3"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": "pool"}, "row 1: op is 'pool'"),
        ({"width": 12}, "row 1: width"),
        ({"lr": None}, "lacks a column for gene 'lr'"),
        ({"label:0": None, "label:1": None}, "has no labels"),
        ({"label:0": "NA"}, "row 1: label:0 is 'NA'; expected a number, or an empty cell"),
        ({"label:1": "inf"}, "row 1: label:1 is infinite; expected a finite number"),
        ({"cost:macs": ""}, "row 1: cost:macs is not given; expected a number in every row"),
        ({"cost:macs": "5 M"}, "row 1: cost:macs is '5 M'; expected a number"),
    ],
)
def test_wrong_tables_are_refused_in_words(
    files: tuple[Path, Path], change: dict[str, object], message: str
) -> None:
    space, table = files
    records = [{**RECORDS[0], **change}, *RECORDS[1:]]
    dropped = [name for name, value in change.items() if value is None]
    write(table, [{k: v for k, v in record.items() if k not in dropped} for record in records])
    with pytest.raises(ValueError, match=message):
        load_table(space, table)


def test_rows_without_a_label_are_left_out(files: tuple[Path, Path]) -> None:
    space, table = files
    unknown = {"op": "conv", "width": 8, "lr": 0.1, "flag": True, "cost:macs": "", "label:0": ""}
    write(table, [unknown | {"label:1": ""}, *RECORDS])
    made = load_table(space, table)
    assert (len(made.rows), made.left_out) == (len(RECORDS), 1)
    assert sorted(made.truth()) == [70.5, 80.0, 81.0]
    assert sorted(made.known["macs"]) == [5, 9, 12]
    assert str(made) == "the table has 3 candidates; 1 row without a label left out"


def test_a_csv_of_a_spreadsheet_is_read(files: tuple[Path, Path]) -> None:
    space, table = files
    header, *lines = table.read_text().splitlines()
    spaced = "\r\n".join([", ".join(header.split(",")), *lines, "", ""])
    table.write_bytes(b"\xef\xbb\xbf" + spaced.encode())
    assert load_table(space, table).truth().tolist() == [70.5, 81.0, 80.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty; expected a line with the names of its columns"),
        (b"op,width,lr,flag,label\n", "table.csv has no rows"),
        (b"op,op\n1,2\n", "has two columns 'op'; expected one"),
        (b"op,width\nskip,8,9\n", "line 2: 3 cells; expected 2"),
        (b"op;width\nskip;8\n", "lacks a column for gene 'op'; it has op;width"),
        (b"\xff\xfeo\x00p\x00", "is not a CSV text file"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_words(
    files: tuple[Path, Path], text: bytes, message: str
) -> None:
    space, table = files
    table.write_bytes(text)
    with pytest.raises(ValueError, match=message):
        load_table(space, table)


def test_missing_and_unknown_files_are_refused(files: tuple[Path, Path]) -> None:
    space, table = files
    with pytest.raises(FileNotFoundError, match="no file"):
        load_table(space, table.with_name("absent.csv"))
    other = table.with_suffix(".xlsx")
    other.write_bytes(b"")
    with pytest.raises(ValueError, match="unknown format"):
        load_table(space, other)
    with pytest.raises(ValueError, match="no labels"):
        TableObjective(SPACE, np.zeros((1, 4), np.int16), np.full((1, 2), np.nan), {})


def test_consecutive_seeds_pick_each_training_of_a_candidate_once() -> None:
    space = Space("two", (Gene("a", (0, 1)), Gene("b", (0, 1, 2))))
    rows = np.indices((2, 3)).reshape(2, -1).T.astype(np.int16)
    labels = 50 + np.arange(24.0).reshape(6, 4)
    labels[0, 3] = np.nan
    table = TableObjective(space, rows, labels, {})
    picked = [
        [table.evaluate(row, seed=s, epochs=1)[0] for s in range(2, 6)] for row in rows.tolist()
    ]
    assert len(set(picked[0][:3])) == 3
    assert all(len(set(found)) == 4 for found in picked[1:])
    orders = {tuple(int(x) % 4 for x in found) for found in picked[1:]}
    assert len(orders) > 1
