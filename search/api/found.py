"""What a search has found, read from its folder: best candidates, all trials, report, plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from fbnetv3._internal.optional import missing
from fbnetv3.measure.plot import pareto
from fbnetv3.search.execution.peer_names import no_attribute
from fbnetv3.search.execution.spec import plan_of, space_of
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.limit import limit_text
from fbnetv3.search.report.page import write_report
from fbnetv3.search.space.space import Space
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Trial

from .records import Best, BestWithin, Finished

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Found:
    """The results of a search, finished or not; every access reads the folder again.

    Args:
        folder: the search's folder.

    Raises:
        FileNotFoundError: there is no search in the folder.
        ValueError: the search has no space.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        with Store.read(self.folder) as store:
            self._space = space_of(store.settings)

    def __repr__(self) -> str:
        return f"Found({str(self.folder)!r})"

    def __getattr__(self, name: str) -> NoReturn:
        no_attribute("Found", name)

    @property
    def finished(self) -> bool:
        """Whether the search has ended."""
        with Store.read(self.folder) as store:
            return store.stage("answers") is not None

    @property
    def best(self) -> dict[str, Best]:
        """Limit -> the best candidate within it.

        Limits are spelled as they were given; "" stands for a search without limits. After the end
        of the search this is the best mean over seeds, before it the best value so far. A limit
        within which nothing was trained yet has no entry.
        """
        with Store.read(self.folder) as store:
            config = SearchConfig.from_dict(plan_of(store.settings))
            texts = store.settings.get("call", {}).get("limits") or map(limit_text, config.limits)
            ended = store.stage("answers")
            if ended is not None:
                found = [_winner(answer) for answer in ended["answers"]]
            else:
                finished = _finished(store, self._space, epochs=config.epochs)
                full = [one for one in finished if one.fidelity == 1]
                found = [_best_so_far(full, limit) for limit in config.limits]
        both = zip(texts, found, strict=True)
        return BestWithin({text: one for text, one in both if one is not None})

    @property
    def trials(self) -> list[Finished]:
        """All trained trials, in the order in which they were proposed."""
        with Store.read(self.folder) as store:
            return _finished(store, self._space)

    def trials_dataframe(self) -> pd.DataFrame:
        """Returns a pandas frame with a row for each trial, in the order of their proposal.

        Columns: `number`, `state` ("done", "failed", "queued", "leased"), `value` (NaN without
        one), `round`, `kind`, `seed`, `epochs`, `fidelity` (share of the final steps; values
        of different shares are not comparable), `predicted`, `seconds`, then `params_GENE` for
        every gene (empty where it has no meaning) and `costs_NAME` for every cost.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise missing("pandas", error) from error
        with Store.read(self.folder) as store:
            kinds = {batch.number: batch.kind for batch in store.batches()}
            trials = store.trials()
            values = {trial.seq: _value(store, trial) for trial in trials if trial.state == "done"}
        names = [f"params_{gene.name}" for gene in self._space.genes]
        costs = dict.fromkeys(f"costs_{name}" for trial in trials for name in trial.costs)
        rows = [
            {
                "number": trial.seq,
                "state": trial.state,
                "value": values.get(trial.seq, np.nan),
                "round": trial.batch,
                "kind": kinds[trial.batch],
                "seed": trial.seed,
                "epochs": trial.epochs,
                "fidelity": trial.fidelity,
                "predicted": np.nan if trial.predicted is None else trial.predicted,
                "seconds": np.nan if trial.seconds is None else trial.seconds,
                **{f"params_{k}": v for k, v in self._params(trial).items()},
                **{f"costs_{k}": v for k, v in trial.costs.items()},
            }
            for trial in trials
        ]
        head = ["number", "state", "value", "round", "kind", "seed", "epochs", "fidelity"]
        return pd.DataFrame(rows, columns=[*head, "predicted", "seconds", *names, *costs])

    def _params(self, trial: Trial) -> dict[str, Any]:
        return self._space.values(np.array(trial.genes))

    def report(self, path: str | Path | None = None) -> Path:
        """Writes the HTML report, one page that needs no network; returns its path.

        Args:
            path: the file; None: `report.html` in the search's folder.

        Raises:
            OSError: the file cannot be written.
        """
        out = self.folder / "report.html" if path is None else Path(path)
        with Store.read(self.folder) as store:
            write_report(store, out)
        return out

    def plot_front(self, cost: str | None = None) -> Figure:
        """Returns a figure of all values of full trainings over a cost, with the Pareto front.

        A notebook shows it; `figure.savefig("front.png")` writes it.

        Args:
            cost: name of the cost; None: the first one.

        Raises:
            ValueError: the search has no such cost, or no trial has a value yet.
        """
        trials = [one for one in self.trials if np.isfinite(one.value) and one.fidelity == 1]
        known = list(trials[0].costs) if trials else []
        if not trials:
            raise ValueError("no full training has a value yet; wait for the first")
        if not known:
            raise ValueError("the search has no costs; expected one that was started with cost=")
        if cost is not None and cost not in known:
            raise ValueError(f"cost is {cost!r}; the known costs are {', '.join(known)}")
        name = cost or known[0]
        points = [(one.costs[name], one.value) for one in trials]
        return _plot(points, name, self.best)


def _plot(points: list[tuple[float, float]], name: str, best: Mapping[str, Best]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True), "o", alpha=0.5, markersize=4, label="trials")
    front = [points[index] for index in pareto(points)]
    axes.plot(*zip(*front, strict=True), drawstyle="steps-post", label="Pareto front")
    for limit, one in best.items():
        axes.plot(one.costs[name], one.value, "*", markersize=12, label=f"best, {limit or 'all'}")
    axes.set(xlabel=name, ylabel="objective value")
    axes.legend(loc="lower right")
    return figure


def _value(store: Store, trial: Trial) -> float:
    last = store.curve(trial.seq)[-1]
    return float("nan") if last is None else last


def finished_trial(store: Store, space: Space, trial: Trial, kind: str) -> Finished:
    """Returns a done trial of a store as a record."""
    return Finished(
        number=trial.seq,
        params=space.values(np.array(trial.genes)),
        value=_value(store, trial),
        costs=trial.costs,
        seed=trial.seed,
        round=trial.batch,
        kind=kind,
        fidelity=trial.fidelity,
    )


def _finished(store: Store, space: Space, *, epochs: int | None = None) -> list[Finished]:
    """Returns the done trials, of one length or of all."""
    kinds = {batch.number: batch.kind for batch in store.batches()}
    return [
        finished_trial(store, space, trial, kinds[trial.batch])
        for trial in store.trials("done")
        if epochs in (None, trial.epochs)
    ]


def _winner(answer: Mapping[str, Any]) -> Best | None:
    """Returns the winner among the contenders of a stored answer, if there are any."""
    if not answer["contenders"]:
        return None
    best = answer["contenders"][0]
    values = tuple(float("nan") if value is None else value for value in best["labels"])
    mean = float("nan") if best["mean"] is None else best["mean"]
    return Best(
        best["genes"], mean, best["sd"] or 0.0, values, best["costs"], best.get("prior", "")
    )


def _best_so_far(trials: list[Finished], limit: Mapping[str, tuple[float, float]]) -> Best | None:
    inside = [
        one
        for one in trials
        if np.isfinite(one.value)
        and all(low <= one.costs[name] <= high for name, (low, high) in limit.items())
    ]
    if not inside:
        return None
    best = max(inside, key=lambda one: one.value)
    return Best(best.params, best.value, 0.0, (best.value,), best.costs)
