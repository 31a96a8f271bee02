"""The objective of a search that is written in Python: plain functions of a candidate's values.

`train(params, *, seed, fidelity)` trains one candidate: it returns its objective value, or yields
one after every epoch, of which the last counts. `cost(params)` returns its costs, which need no
training.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fbnetv3._internal.messages import shown
from fbnetv3.search.space.space import Floats, Matrix, Space

from .objective import ObjectiveError
from .peer_names import Params

# Costs of so many candidates are remembered: evolution meets the same ones again and again.
_REMEMBERED = 2**18
# Percent that are a mean of float32 may be so far outside 0 to 100.
_ROUNDED = 1e-3

CostFunction = Callable[[dict[str, Any]], Mapping[str, float]]


class TrainFunction(Protocol):
    """Trains one candidate."""

    def __call__(self, params: dict[str, Any], /, *, seed: int, fidelity: float) -> Any:
        """Returns the objective value, higher is better, or yields it after every epoch.

        Of a function that does both, the value that it returns counts.

        Args:
            params: gene -> value, without genes that have no meaning for the candidate.
            seed: random seed of initialisation and data order.
            fidelity: share of the final training's steps, above 0 and up to 1. Below 1 train that
                much, with a schedule of its own that ends with it.
        """


class FunctionObjective:
    """Evaluates candidates with plain functions.

    Attributes:
        epochs: 1, a training has one label.
        target: "log_error" for values that are accuracies in percent, else "raw".
        costs: (P, num_genes) -> cost -> (P,); None without a cost function.

    Args:
        space: the search space.
        train: trains a candidate; None: somebody else does.
        cost: costs of a candidate; None: those of the space, if it describes networks.
        target: see the attribute.

    Raises:
        ValueError: `train` or `cost` cannot be called as expected.
    """

    epochs = 1

    def __init__(
        self,
        space: Space,
        train: TrainFunction | None,
        cost: CostFunction | None = None,
        *,
        target: str = "log_error",
    ) -> None:
        if not isinstance(space, Space):
            raise ValueError(
                f"space is {shown(space)}; expected a Space, such as "
                "Space('mlp', [Gene('act', ('relu', 'gelu'))]) or get_space('cifar_joint')"
            )
        if train is not None:
            _check_call("train", train, {"seed": 0, "fidelity": 1.0})
        if cost is not None:
            _check_call("cost", cost, {})
        self.space, self.target = space, target
        self._train, self._cost = train, cost
        self.costs = None if cost is None else self._costs
        self._cost_of = functools.lru_cache(_REMEMBERED)(self._cost_of_genes)

    def spec(self) -> dict[str, Any]:
        """Returns the settings that `load_objective` makes an equal objective of, if it can."""
        functions = {"train": self._train, "cost": self._cost}
        addresses = {name: None if f is None else address(f) for name, f in functions.items()}
        return {
            "kind": "function",
            "space": self.space.to_dict(),
            **addresses,
            "target": self.target,
        }

    def epochs_at(self, fidelity: float) -> int:
        """Returns the number of labels of a training of a share: one."""
        return 1

    def evaluate(
        self, genes: Sequence[int], *, seed: int, epochs: int, fidelity: float = 1.0
    ) -> Iterator[float]:
        """Yields the last value that the training of a candidate gave.

        Raises:
            ObjectiveError: it gave no value, or one that is no number or not in percent.
        """
        assert self._train is not None
        params = self.space.values(np.asarray(genes, np.int16))
        found = self._train(Params(params), seed=seed, fidelity=fidelity)
        if isinstance(found, np.ndarray) and found.ndim == 1:
            found = found.tolist()
        last: float | None = None
        if isinstance(found, tuple):
            raise ObjectiveError(
                f"train({params}) returned {shown(found)}; expected one number, higher is better, "
                "or one after every epoch as a list or by yield"
            )
        for value in _values(found):
            last = self.checked(value, f"train({params})")
            if not math.isfinite(last):
                break
        if last is None:
            raise ObjectiveError(
                f"train({params}) yielded nothing; expected a number after every epoch, or one "
                "number returned"
            )
        yield last

    def checked(self, value: Any, what: str) -> float:
        """Returns an objective value as a number; NaN and -inf mean that a training diverged.

        Args:
            value: the value.
            what: what gave it, for messages.

        Raises:
            ObjectiveError: it is no number, or not in percent where that is expected.
        """
        if value is None:
            raise ObjectiveError(f"{what} returned nothing; expected a number, higher is better")
        try:
            # Arrays and tensors of one element are numbers too.
            number = float(value.item() if callable(getattr(value, "item", None)) else value)
        except (TypeError, ValueError, RuntimeError):
            raise ObjectiveError(
                f"{what} gave {shown(value)}; expected a number, higher is better"
            ) from None
        if number == -math.inf:
            return math.nan
        if self.target == "log_error" and -_ROUNDED <= number <= 100 + _ROUNDED:
            number = min(max(number, 0.0), 100.0)
        if self.target == "log_error" and (number < 0 or number > 100):
            raise ObjectiveError(
                f"{what} gave {number:.9g}; expected an accuracy in percent, 0 to 100; for any "
                "other number, higher is better, give target='raw'"
            )
        return number

    def _costs(self, rows: Matrix) -> dict[str, Floats]:
        """Returns name -> (P,) of candidates (P, num_genes)."""
        found = [self._cost_of(tuple(row)) for row in self.space.canonical(rows).tolist()]
        names = list(found[0] if found else self._cost_of((0,) * len(self.space.genes)))
        for one in found:
            if list(one) != names:
                raise ValueError(
                    f"cost gave {', '.join(one)} for one candidate and {', '.join(names)} for "
                    "another; expected the same names in the same order"
                )
        return {name: np.array([one[name] for one in found], np.float64) for name in names}

    def _cost_of_genes(self, genes: tuple[int, ...]) -> dict[str, float]:
        assert self._cost is not None
        params = self.space.values(np.array(genes, np.int16))
        try:
            found = self._cost(dict(params))
        except Exception as error:
            error.add_note(f"in cost({params})")
            raise
        try:
            costs = {str(name): float(value) for name, value in found.items()}
        except (AttributeError, TypeError, ValueError):
            costs = {}
        if not costs or not all(math.isfinite(value) for value in costs.values()):
            raise ValueError(
                f"cost({params}) gave {shown(found)}; expected name -> finite number, such as "
                "{'macs': 4e8}"
            )
        return costs


def _values(found: Any) -> Iterator[Any]:
    """Yields the values that a training gave, of which the last counts."""
    if isinstance(found, Generator):
        # What it returns comes after what it yields.
        returned = yield from found
        if returned is not None:
            yield returned
    elif isinstance(found, Iterator | list):
        yield from found
    else:
        yield found


def address(function: Callable[..., Any]) -> str:
    """Returns where another process can import a function from, or "" if it cannot.

    A lambda, a nested function, and whatever a script or a notebook defines has no address.
    """
    name = getattr(function, "__qualname__", "")
    module_name = getattr(function, "__module__", None) or "__main__"
    module = sys.modules.get(module_name)
    if module_name == "__main__" or getattr(module, name, None) is not function:
        return ""
    file = getattr(module, "__file__", None)
    if "." not in module_name and file is not None and file.endswith(".py"):
        return f"{file}:{name}"
    return f"{module_name}:{name}" if importlib.util.find_spec(module_name) else ""


def _check_call(name: str, function: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
    expected = ", ".join(["params", *(f"{key}=..." for key in keywords)])
    if not callable(function):
        raise ValueError(f"{name} is {shown(function)}; expected a function {name}({expected})")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ValueError(
            f"{name} is an async function; expected one that returns its result, for example by "
            "asyncio.run"
        )
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions of C have none
        return
    try:
        signature.bind({}, **keywords)
    except TypeError as error:
        raise ValueError(
            f"{name} takes {signature}, but it is called as {name}({expected}): {error}"
        ) from None
