"""What users of Optuna look for, and what it is called here."""

from __future__ import annotations

from typing import NoReturn

_BEST = "best[LIMIT], with .params and .value; LIMIT is '' in a search without limits"
_RUN = "search.run(space, train, ...), which trains by itself; a Study is asked and told"
_ADVICE = {
    "best_params": _BEST,
    "best_value": _BEST,
    "best_trial": _BEST,
    "best_trials": _BEST,
    "optimize": _RUN,
    "get_trials": "trials",
    "enqueue_trial": "prior=PARAMS where the search is made, which is tried with the best networks",
    "add_trial": "fbnetv3-search resume FOLDER --labels trials.csv, which imports known values",
    "stop": "close()",
    "set_user_attr": "a record of your own; trials have a number to refer to",
}


def no_attribute(owner: str, name: str) -> NoReturn:
    """Raises what `__getattr__` should, with the name that is meant.

    Raises:
        AttributeError: always.
    """
    if name.startswith("suggest_"):
        advice = "params, which has the value of each gene; ranges are the genes of the space"
    else:
        advice = _ADVICE.get(name, "")
    raise AttributeError(
        f"{owner} has no attribute {name!r}" + (f"; use {advice}" if advice else "")
    )
