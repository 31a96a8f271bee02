"""Kills nodes of a Ray cluster on this machine under a search."""

from __future__ import annotations

import importlib
import random
import threading
import time
from pathlib import Path
from typing import Any

from killable import PLAN, SPACE, summary, toy  # type: ignore[import-not-found]  # a script's
from ray_nodes import node_arguments  # type: ignore[import-not-found]  # a script's

from fbnetv3.search.coordinator import Policy
from fbnetv3.search.engine import LocalEngine
from fbnetv3.search.ray_engine import RayEngine
from fbnetv3.search.run import create, run


def undergo_nodes(folder: Path, *, kills: int, sleep_s: float) -> dict[str, Any]:
    """Returns whether a search on nodes that die ends as one on this machine does."""
    spec = toy(sleep_s=sleep_s)
    with create(folder / "plain", space=SPACE, objective=spec, plan=PLAN) as store:
        engine = LocalEngine(spec, folder / "plain", workers=2, threads=1)
        run(store, engine)
        engine.close()
        expected = summary(store)
    ray: Any = importlib.import_module("ray")
    make_cluster: Any = importlib.import_module("ray.cluster_utils").Cluster

    cluster = make_cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, **node_arguments()},
    )
    nodes = [cluster.add_node(num_cpus=1, **node_arguments()) for _ in range(2)]
    ray.init(cluster.address, log_to_driver=False)
    ended, killed = threading.Event(), 0
    begun = time.monotonic()

    def kill() -> None:
        nonlocal killed
        rng = random.Random(0)
        while killed < kills and not ended.wait(rng.uniform(0.5, 4.0)):
            cluster.remove_node(nodes.pop(rng.randrange(len(nodes))), allow_graceful=False)
            killed += 1
            nodes.append(cluster.add_node(num_cpus=1, **node_arguments()))

    thread = threading.Thread(target=kill)
    try:
        with create(folder / "ray", space=SPACE, objective=spec, plan=PLAN) as store:
            engine_on_ray = RayEngine(spec, folder / "ray", max_running=3)
            thread.start()
            run(store, engine_on_ray, policy=Policy(max_attempts=100))
            found = summary(store)
            failures = sum(trial.failures for trial in store.trials())
            engine_on_ray.close()
    finally:
        ended.set()
        thread.join()
        ray.shutdown()
        cluster.shutdown()
    return {
        "nodes_killed": killed,
        "identical_trials_order_and_answer": found == expected,
        "trials": len(found["trials"]),
        "attempts_lost_with_their_node": failures,
        "seconds": round(time.monotonic() - begun, 1),
    }
