"""A run's epochs in MLflow; its own variables (MLFLOW_TRACKING_URI, ...) are heeded.

Without a tracking server they go to `mlruns/` of the run's folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIBRARY = "mlflow"
EXPERIMENT = "fbnetv3"
_MAX_PARAM = 500


class MlflowLog:
    """A `log_writers.LogWriter`; arguments as in `log_writers.OpenWriter`."""

    def __init__(self, folder: Path, id: str, after: int, settings: Mapping[str, Any]) -> None:
        # It would report to its makers that it is used.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        import mlflow

        uri = os.environ.get("MLFLOW_TRACKING_URI") or (folder / "mlruns").resolve().as_uri()
        self._client: Any = mlflow.MlflowClient(tracking_uri=uri)
        self.id = id or self._begun(folder.resolve().name, settings)
        if id:
            self._client.update_run(id, status="RUNNING")

    def _begun(self, name: str, settings: Mapping[str, Any]) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        run_id = str(self._client.create_run(number, run_name=name).info.run_id)
        for key, value in settings.items():
            self._client.log_param(run_id, key, str(value)[:_MAX_PARAM])
        return run_id

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        """Hands an epoch over."""
        for name, value in values.items():
            self._client.log_metric(self.id, name, value, step=number)

    def close(self, finished: bool) -> None:
        """Marks the run as finished, or as one that may be resumed."""
        self._client.set_terminated(self.id, "FINISHED" if finished else "KILLED")
