"""What a search shows while it runs: one line of progress on a terminal, a line an event else."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fbnetv3._internal.messages import counted

from .words import duration, share_text

if TYPE_CHECKING:
    from fbnetv3.search.nars.answers import Answer
    from fbnetv3.search.storage.store import Store

# A line of progress so often where the output is no terminal.
PLAIN_S = 60.0


class Live:
    """Shows notes of a search on standard error; a context manager."""

    def __init__(self, store: Store, *, quiet: bool = False) -> None:
        self._store, self._quiet, self._round = store, quiet, ""
        self._terminal = not quiet and sys.stderr.isatty()
        self._said = self._warn_at = 0.0
        self._status: Any = None

    def __enter__(self) -> Live:
        if self._terminal:
            from rich.console import Console

            self._status = Console(stderr=True).status("starting")
            self._status.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._status is not None:
            self._status.__exit__(None, None, None)

    def note(self, name: str, fields: Mapping[str, Any]) -> None:
        """Shows a progress note from `run.run`."""
        if self._quiet:
            return
        if name == "progress":
            self._progress(fields)
        elif name == "measuring":
            self._round = "measuring"
            self._say(_measuring(fields))
        elif name == "round":
            last = fields["index"] > fields["rounds"]
            self._round = "last" if last else f"round {fields['index']} of {fields['rounds']}"
            if fields.get("fidelity", 1.0) < 1:
                self._round += f" (rung of {share_text(fields['fidelity'])})"
        elif text := _TEXTS.get(name, lambda _fields: "")(fields):
            self._say(text)

    def _say(self, text: str) -> None:
        if self._status is not None:
            self._status.console.print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def _progress(self, fields: Mapping[str, Any]) -> None:
        overdue = fields["overdue_s"]
        if overdue > self._warn_at:
            # Said again each time that it has taken twice as long.
            self._warn_at = 2 * overdue
            self._say(
                f"warning: a trial has been running for {duration(overdue)}, far longer than "
                "others; if its objective hangs, stop the search and resume it with --timeout "
                "SECONDS, after which an attempt fails"
            )
        left = fields["seconds_left"]
        text = (
            f"{self._round}: {fields['done']} done, {fields['running']} running, "
            f"{fields['waiting']} waiting"
            + (f", {fields['failed']} failed" if fields["failed"] else "")
            + (f", about {duration(left)} left in this round" if left and left >= 1 else "")
        )
        if self._status is not None:
            self._status.update(f"{text}; {self._best()}")
        elif time.monotonic() - self._said > PLAIN_S:
            self._said = time.monotonic()
            self._say(f"{text}; {self._best()}")

    def _best(self) -> str:
        from fbnetv3.search.nars.status import best_of

        best = best_of(self._store)
        shown = [
            f"{one['label']:.2f}" + (f" ({one['limit']})" if one["limit"] else "")
            for one in best
            if one["label"] is not None
        ]
        if shown:
            return f"best so far {', '.join(shown)}"
        return "no full training yet" if self._store.counts()["done"] else "no label yet"


def _closed(fields: Mapping[str, Any]) -> str:
    best = "all NaN" if fields["best"] is None else f"best {fields['best']:.3f}"
    text = f"round {fields['index']}: {counted(fields['trials'], 'label')}, {best}"
    if fields.get("fidelity", 1.0) < 1:
        text += f" on the rung of {share_text(fields['fidelity'])}"
    if "tau" in fields:
        text += (
            f"; predictor {fields['predictor']}, held out: tau {fields['tau']:.3f}, Spearman "
            f"{fields['spearman']:.3f}, MSE {fields['mse']:.3g}, tau in the better half "
            f"{fields['tau_better_half']:.3f}"
        )
    if fields.get("worse_than_cost"):
        text += (
            f"; warning: no better than the cost alone (tau {fields['tau_of_cost']:.3f}), do not "
            "trust its choice yet"
        )
    return text


def _early_stop(fields: Mapping[str, Any]) -> str:
    if fields["found"]:
        return f"early stopping: ranking stable from epoch {fields['epoch']} of {fields['epochs']}"
    why = fields["reason"] or "no stable ranking"
    return f"early stopping: {why}; training all {counted(fields['epochs'], 'epoch')}"


def _measuring(fields: Mapping[str, Any]) -> str:
    rungs = ", ".join(share_text(share) for share in fields["rungs"])
    return f"measuring how long trainings take: in full{f' and {rungs} of it' if rungs else ''}"


def _plan(fields: Mapping[str, Any]) -> str:
    """Returns what a search will train, and if known, how long that takes."""
    seconds = {float(share): took for share, took in fields.get("seconds", {}).items()}
    each = {share: f" ({duration(took)} each)" for share, took in seconds.items()}
    parts = [
        f"{num} trainings of {share_text(share)} of the final steps{each.get(share, '')}"
        for share, num in fields["rungs"].items()
    ]
    for share, reason in fields.get("left_out", {}).items():
        parts.append(f"none of {share_text(share)} of the final steps: {reason}")
    sizes, full = fields["rounds"], each.get(1.0, "")
    parts.append(
        f"{counted(len(sizes), 'round')} of {_sizes(sizes)} in full{full}, {sum(sizes)} in all"
    )
    parts.append(
        f"{fields['last']} to retrain the best ({counted(fields['top'], 'candidate')} per limit, "
        f"{counted(fields['final_seeds'], 'seed')} each)"
    )
    if not (seconds or fields["cost"]):
        return "plan: " + "; ".join(parts)
    if seconds:
        budget = duration(fields["time_s"])
        num = {**fields["rungs"], 1.0: sum(sizes) + fields["last"]}
        takes = sum(num[share] * seconds[share] for share in num) / fields["parallel"]
        budget += f", of which trainings take {duration(takes)}"
    else:
        budget = f"{fields['cost']:g} full trainings"
        spent = sum(share * num for share, num in fields["rungs"].items())
        budget += f", {spent + sum(sizes) + fields['last']:.1f} of them used"
    return f"plan for {budget}: " + "; ".join(parts)


def _exhausted(fields: Mapping[str, Any]) -> str:
    text = (
        f"all {counted(fields['candidates'], 'candidate')} are trained before the time is up: what "
        "is left retrains the best, and more time has no more to choose from"
    )
    return text if fields["whole"] else f"{text}; a search with a larger pool has"


def _sizes(sizes: Sequence[int]) -> str:
    """Returns sizes of rounds: "5", or "12 and then 2" where the first differs."""
    first, *others = sizes
    later = max(others, default=first)
    return f"{first}" if first == later else f"{first} and then {later}"


_TEXTS: dict[str, Any] = {
    "pretraining": lambda fields: (
        "stage 1: encoder pretrained, "
        + ", ".join(f"R2 of {name} {value:.4f}" for name, value in fields.items())
    ),
    "plan": _plan,
    "early_stop": _early_stop,
    "closed": _closed,
    "exhausted": _exhausted,
    "evolved": lambda _fields: "stage 3: found the best candidates for each limit",
}


def round_line(number: int, answer: Answer) -> str:
    """Returns a result as one line."""
    from fbnetv3.search.nars.limit import limit_text
    from fbnetv3.search.nars.prior import prior_title

    where = f"result {number} ({limit_text(answer.limit) or 'no limit'})"
    if not answer.contenders:
        nearest = ", ".join(f"{name} {value:g}" for name, value in answer.nearest.items())
        return f"{where}: out of reach; the nearest has {nearest}"
    best = answer.contenders[0]
    costs = [f"{name} {value:.6g}" for name, value in best.costs.items()]
    seeds = counted(len(best.labels), "seed")
    mean = f"{where}: {best.mean:.3f} +- {best.sd:.3f} over {seeds}"
    line = ", ".join([mean, *costs])
    with_prior = [one for one in answer.contenders if one.prior]

    if best.prior:
        return f"{line}; it has {prior_title(best.prior)}"
    if with_prior:
        return f"{line}; {prior_title(with_prior[0].prior)} has {with_prior[0].mean:.3f}"
    return line
