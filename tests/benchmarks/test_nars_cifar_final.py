"""What `nars_cifar_final` keeps of a search goes on elsewhere, without folders of the machine."""

import tarfile
from pathlib import Path

import pytest

from fbnetv3.search.execution.engine import InlineEngine
from fbnetv3.search.execution.objective import load_table
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.run import create_search, run_search
from fbnetv3.search.storage.store import Store
from tests.modules import benchmark
from tests.paths import ROOT

DATA = ROOT / "benchmarks" / "data"
TABLE, SPACE = DATA / "nars_cifar_recipe_only_m.csv", DATA / "nars_cifar_recipe_only_m_space.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished search of a table."""
    made = load_table(SPACE, TABLE)
    settings = {"kind": "table", "space": str(SPACE), "table": str(TABLE)}
    config = SearchConfig(batch=4, rounds=1, predictor="gp", top=2, final_seeds=1)
    with create_search(
        tmp_path / "s", space=made.space, objective=settings, config=config
    ) as store:
        run_search(store, InlineEngine(made))
    return tmp_path / "s"


def test_kept_search_goes_on_elsewhere(folder: Path, tmp_path: Path) -> None:
    study = benchmark("studies.nars_cifar_final")
    kept = tmp_path / "kept" / "joint.tar.xz"
    study.pack(folder, kept)
    with tarfile.open(kept) as tar:
        texts = {
            one.name: tar.extractfile(one).read()  # type: ignore[union-attr]
            for one in tar.getmembers()
        }
        assert all(one.uname == "" and one.uid == 0 for one in tar.getmembers())
    assert not any(str(tmp_path).encode() in text for text in texts.values())
    other = tmp_path / "elsewhere"
    study.unpack(kept, tmp_path / "data", other)
    with Store.read(folder) as first, Store.read(other) as second:
        genes = [
            [(one.genes, one.seed) for one in store.trials("done")] for store in (first, second)
        ]
        assert genes[0] == genes[1]
        assert len(genes[0]) >= 8
        assert second.settings["objective"]["data"] == str((tmp_path / "data").resolve())


def test_answer_is_chosen_on_validation_and_compared_by_seed() -> None:
    study = benchmark("studies.nars_cifar_tested")
    joint, networks = {"a": (80, 70), "b": (79, 75)}, {"c": (81, 69)}
    rows = [
        {
            "arm": arm,
            "candidate": name,
            "seed": seed,
            "macs": 2_000_000,
            "params": 1000,
            "val_top1_pct": validation + seed,
            "top1_pct": test + seed * (2 if name == "a" else 1),
        }
        for arm, found in (("joint", joint), ("networks", networks))
        for name, (validation, test) in found.items()
        for seed in (2, 0, 1)
    ]
    page = study.page(rows).splitlines()
    assert page[6].startswith("| `joint` | 2.00 | 1,000 | 81.00 | 70.00, 72.00, 74.00 | 72.00 ±")
    # By seed: 70 - 69, 72 - 70, 74 - 71.
    assert page[-1] == "| `networks` | +2.00 ± 2.48 |"
