"""The engine for many machines, on Ray (extra `ray`).

Each trial is one task in its own placement group, so that an autoscaling cluster sees the demand.
Ray retries nothing: the coordinator counts attempts. Nodes may die. Arguments and results are JSON,
and the result includes the labels, so that no shared disk is needed; the package must be installed
on every node.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbnetv3._internal.ray_start import start_ray
from fbnetv3.search.storage.results import attempt_folder, epoch_name, read_epochs, write_epoch

from .spec import load_objective
from .worker import Outcome, Task, run_task

if TYPE_CHECKING:
    from .objective import Objective

_objectives: dict[str, Objective] = {}


class RayEngine:
    """Runs trials as Ray tasks.

    Args:
        objective: settings of the objective, for the workers.
        folder: the search's folder on the coordinator's disk.
        address: address of the cluster; None starts or joins one on this machine.
        cpus: CPU cores per trial.
        gpus: GPUs per trial.
        max_running: maximum number of trials submitted to Ray at once; None: as many as fit on the
            current nodes. Set it on an autoscaling cluster, which grows with waiting trials.

    Raises:
        ImportError: Ray is not installed.
        ValueError: no cluster answers at the address.
    """

    name = "ray"
    # A worker's files may be on another machine; Ray notices the death of workers.
    heartbeats = False

    def __init__(
        self,
        objective: Mapping[str, Any],
        folder: Path,
        *,
        address: str | None = None,
        cpus: float = 1,
        gpus: float = 0,
        max_running: int | None = None,
    ) -> None:
        self._owns_ray = start_ray(address)
        import ray

        self._ray: Any = ray  # its decorators are not typed strictly
        self._objective, self._folder = json.dumps(dict(objective), sort_keys=True), folder
        self._bundle = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
        self._max_running = max_running
        self._run = self._ray.remote(_run_remotely)
        self._options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0}
        # Object reference of the result -> task and placement group.
        self._running: dict[Any, tuple[Task, Any]] = {}

    def capacity(self) -> int:
        """Returns how many more trials can be submitted to Ray."""
        if self._max_running is not None:
            return max(0, self._max_running - len(self._running))
        have = self._ray.cluster_resources()
        fit = min(int(have.get(name, 0) // need) for name, need in self._bundle.items() if need)
        return max(0, fit - len(self._running))

    def submit(self, task: Task) -> None:
        """Submits a trial in its own placement group."""
        from ray.util import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = placement_group([self._bundle], strategy="STRICT_PACK")
        strategy = PlacementGroupSchedulingStrategy(placement_group=group)
        options = {**self._options, "scheduling_strategy": strategy}
        reference = self._run.options(**options).remote(self._objective, task.to_json())
        self._running[reference] = (task, group)

    def poll(self, timeout_s: float) -> list[Outcome]:
        """Returns the attempts that ended, also through the death of their node."""
        if not self._running:
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        if ready:
            everything = list(self._running)
            ready, _ = self._ray.wait(everything, num_returns=len(everything), timeout=0)
        return [self._receive(reference) for reference in ready]

    def cancel(self, trial: str) -> None:
        """Kills a trial's worker."""
        for reference, (task, _) in list(self._running.items()):
            if task.trial == trial:
                self._ray.cancel(reference, force=True)
                self._forget(reference)

    def close(self) -> None:
        """Kills all trials, and disconnects from Ray if this engine connected to it."""
        for task, _ in list(self._running.values()):
            self.cancel(task.trial)
        if self._owns_ray:
            self._ray.shutdown()

    def _forget(self, reference: Any) -> Task:
        from ray.util import remove_placement_group

        task, group = self._running.pop(reference)
        remove_placement_group(group)
        return task

    def _receive(self, reference: Any) -> Outcome:
        task = self._forget(reference)
        try:
            result = json.loads(self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            text = " ".join(str(error).split())[:300]
            return Outcome(task.trial, task.attempt, f"{type(error).__name__}: {text}")
        folder = attempt_folder(self._folder, task.trial, task.attempt)
        for epoch, value in result["labels"]:
            if not (folder / epoch_name(epoch)).exists():
                label = float("nan") if value is None else value
                write_epoch(self._folder, task.trial, task.attempt, epoch, label)
        return Outcome(**result["outcome"])


def _run_remotely(spec: str, line: str) -> str:
    """Trains one trial on a node; returns its outcome and labels as JSON."""
    if spec not in _objectives:
        _objectives[spec] = load_objective(json.loads(spec))
    fields = json.loads(line)
    task = Task(**{**fields, "genes": tuple(fields["genes"])})
    outcome = run_task(_objectives[spec], task)
    epochs = read_epochs(Path(task.folder), task.trial, [])
    labels = [(e.epoch, e.value) for e in epochs if e.attempt == task.attempt]
    return json.dumps({"outcome": dataclasses.asdict(outcome), "labels": labels})
