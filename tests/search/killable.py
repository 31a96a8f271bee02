"""A whole search on the toy problem, as a program to be killed; prints its answer as JSON.

python killable.py FOLDER [SLEEP_S] [PLAN] [ENGINE_ADDRESS]
"""

import json
import sys
from pathlib import Path
from typing import Any

from fbnetv3.search.execution.coordinator import Policy
from fbnetv3.search.execution.engine import Engine, LocalEngine
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.prior import Prior
from fbnetv3.search.nars.run import create_search, run_search
from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.space import Space
from fbnetv3.search.storage.store import Store

SPACE = Space("toy", tuple(Gene(f"g{n}", tuple(range(4)), kind="ordered") for n in range(6)))
INFINITE = float("inf")
PLAN = SearchConfig(
    pool=400,
    batch=12,
    rounds=3,
    epochs=4,
    predictor="gp",
    limits=({"macs": (-INFINITE, 120.0)}, {"macs": (-INFINITE, 150.0)}),
    top=2,
    final_seeds=2,
)
# Two rungs and then rounds in full, around a prior.
RUNGS = SearchConfig(
    pool=400,
    batch=8,
    rounds=2,
    epochs=4,
    predictor="gp",
    limits=PLAN.limits,
    top=2,
    final_seeds=2,
    rungs=(0.1, 0.5),
    rung_sizes=(16, 8),
    priors=(Prior("person", {"g4": 2, "g5": 1}),),
)
PLANS = {"paper": PLAN, "rungs": RUNGS}
TOY = f"{Path(__file__).with_name('toy_objective.py')}:make"


def toy(**arguments: Any) -> dict[str, Any]:
    """Returns the settings of the toy objective."""
    return {"kind": "python", "target": TOY, "arguments": arguments}


def summary(store: Store) -> dict[str, Any]:
    """Returns everything about a search that must not depend on what happened to it."""
    answers = store.stage("answers")
    return {
        "trials": [
            [t.id, t.batch, t.slot, list(t.genes), t.epochs, t.seed, t.predicted, t.state,
             store.curve(t.seq), t.fidelity]
            for t in store.trials()
        ],
        "batches": [[b.number, b.kind, b.rng_state] for b in store.batches()],
        "answers": answers,
    }  # fmt: skip


def main() -> None:
    """Starts the search of a folder, or goes on with it."""
    folder = Path(sys.argv[1])
    spec = toy(sleep_s=float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)
    fresh = not (folder / "search.json").exists()
    if fresh:
        config = PLANS[sys.argv[3] if len(sys.argv) > 3 else "paper"]
        store = create_search(folder, space=SPACE, objective=spec, config=config)
    else:
        store = Store.open(folder)
    engine: Engine
    if len(sys.argv) > 4:
        from fbnetv3.search.execution.ray_engine import RayEngine

        engine = RayEngine(spec, folder, address=sys.argv[4], max_running=4)
    else:
        engine = LocalEngine(spec, folder, workers=2, threads=1)
    with store:
        # Kills hit the same trial more than twice now and then; that must not fail it for good.
        run_search(store, engine, policy=Policy(max_attempts=100))
        engine.close()
        print(json.dumps(summary(store)))


if __name__ == "__main__":
    main()
