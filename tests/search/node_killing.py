"""Kills nodes of a Ray cluster on this machine under a search."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

from killable import PLAN, SPACE, summary, toy  # type: ignore[import-not-found]  # a script's
from killing import needless, results  # type: ignore[import-not-found]  # a script's
from ray_nodes import add_node, ray_cluster  # type: ignore[import-not-found]  # a script's

from fbnetv3.search.execution.coordinator import Policy
from fbnetv3.search.execution.engine import LocalEngine
from fbnetv3.search.execution.ray_engine import RayEngine
from fbnetv3.search.nars.run import create_search, run_search


def undergo_nodes(folder: Path, *, kills: int, sleep_s: float) -> dict[str, Any]:
    """Returns whether a search on nodes that die ends as one on this machine does."""
    spec = toy(sleep_s=sleep_s)
    with create_search(folder / "plain", space=SPACE, objective=spec, config=PLAN) as store:
        engine = LocalEngine(spec, folder / "plain", workers=2, threads=1)
        run_search(store, engine)
        engine.close()
        expected = summary(store)
    found: dict[str, Any] = {}

    def search() -> None:
        with create_search(folder / "ray", space=SPACE, objective=spec, config=PLAN) as store:
            engine_on_ray = RayEngine(spec, folder / "ray", max_running=3)
            run_search(store, engine_on_ray, policy=Policy(max_attempts=100))
            found.update(summary(store))
            found["failures"] = sum(trial.failures for trial in store.trials())
            engine_on_ray.close()

    killed, rng = 0, random.Random(0)
    with ray_cluster(num_cpus=0) as cluster:
        nodes = [add_node(cluster, num_cpus=1) for _ in range(2)]
        begun = time.monotonic()
        # Ray starts nodes from the main thread only.
        thread = threading.Thread(target=search)
        thread.start()
        while thread.is_alive():
            # A kill for each few labels, so that the search gets on however slow the machine is.
            before = results(folder / "ray") + rng.randrange(4)
            while thread.is_alive() and results(folder / "ray") <= before:
                thread.join(0.2)
            thread.join(rng.uniform(0.0, 1.0))
            if killed < kills and thread.is_alive():
                cluster.remove_node(nodes.pop(rng.randrange(len(nodes))), allow_graceful=False)
                killed += 1
                nodes.append(add_node(cluster, num_cpus=1))
        seconds = time.monotonic() - begun
    failures = found.pop("failures")
    return {
        "nodes_killed": killed,
        "identical_trials_order_and_answer": found == expected,
        "trials": len(found["trials"]),
        "attempts_lost_with_their_node": failures,
        "attempts_at_finished_trials": needless(folder / "ray", found["trials"]),
        "seconds": round(seconds, 1),
    }
