"""What users of Optuna, Ray Tune and scikit-optimize look for, and what it is called here."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_BEST = "best[LIMIT], with .params and .value; LIMIT is '' in a search without limits"
_RUN = "search.run(space, train, ...), which trains by itself; a Study is asked and told"
_FRAME = "trials_dataframe()"
_YIELD = (
    "yield of the value after each epoch in train; budget=N in place of trainings begins with "
    "short trainings, and goes on with what they promise"
)
_ADVICE = {
    **dict.fromkeys(("best_params", "best_value", "best_trial", "best_trials"), _BEST),
    **dict.fromkeys(("best_config", "best_result", "get_best_result", "x", "fun"), _BEST),
    **dict.fromkeys(("get_dataframe", "results_df", "dataframe", "df"), _FRAME),
    **dict.fromkeys(("report", "should_prune"), _YIELD),
    "optimize": _RUN,
    "get_trials": "trials",
    "enqueue_trial": "prior=PARAMS where the search is made, which is tried with the best networks",
    "add_trial": "fbnetv3-search resume FOLDER --labels trials.csv, which imports known values",
    "stop": "close()",
    "set_user_attr": "a record of your own; trials have a number to refer to",
}
# Of a Study: what `Found` has.
_RESULTS = ("trials_dataframe", "report", "plot_front")
_KEYWORDS = {
    **dict.fromkeys(("n_trials", "num_samples", "n_calls", "max_evals"), "trainings=N"),
    **dict.fromkeys(("timeout", "time_budget_s"), 'time="8h"'),
    **dict.fromkeys(("n_jobs", "max_concurrent_trials"), "workers=N"),
    **dict.fromkeys(
        ("direction", "mode", "minimize"),
        "target='raw' and the negative of what is to be minimized: higher is better",
    ),
    **dict.fromkeys(("study_name", "storage", "storage_path"), "folder=PATH, which has the search"),
    **dict.fromkeys(("random_state", "rng"), "seed=N"),
    **dict.fromkeys(("objective", "func", "trainable"), "train, called as train(params, ...)"),
    **dict.fromkeys(("param_space", "config", "dimensions"), "space, a Space of genes"),
    "sampler": "predictor=NAME",
    "callbacks": "on_trial=FUNCTION or on_round=FUNCTION",
    "load_if_exists": "the same call again, which resumes the search in its folder",
}


class Params(dict[str, Any]):
    """The values of a candidate's genes, a dict."""

    def __getattr__(self, name: str) -> NoReturn:
        if name in self:
            raise AttributeError(f"params is a dict; use params[{name!r}]")
        no_attribute("params", name)


def no_attribute(owner: str, name: str) -> NoReturn:
    """Raises what `__getattr__` should, with the name that is meant.

    Raises:
        AttributeError: always.
    """
    if owner == "params" and name.startswith("suggest_"):
        advice = "params[GENE]; ranges are the genes of the space"
    elif name.startswith("suggest_"):
        advice = "params, which has the value of each gene; ranges are the genes of the space"
    elif owner == "Study" and name in _RESULTS:
        advice = f"found.{name}()"
    else:
        advice = _ADVICE.get(name, "")
    raise AttributeError(
        f"{owner} has no attribute {name!r}" + (f"; use {advice}" if advice else "")
    )


def knows_peers(function: Callable[P, R]) -> Callable[P, R]:
    """Returns a function that refuses the keywords of other libraries with its own names."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known and name in _KEYWORDS:
                raise TypeError(f"there is no argument {name!r}; use {_KEYWORDS[name]}")
        return function(*args, **kwargs)

    return checked
