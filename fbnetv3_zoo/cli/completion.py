"""What the shell offers for a word that is being typed; nothing slow is imported for it.

Where nothing is offered, the shell goes on with its own completion of paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

# Takes the beginning of a word, gives the words that begin so.
Completer = Callable[[str], list[str]]


def models(incomplete: str) -> list[str]:
    """Returns the models."""
    from fbnetv3.hub.registry import list_models

    return _beginning(list_models(), incomplete)


def weights(incomplete: str) -> list[str]:
    """Returns the trained weights, `model.tag`."""
    from fbnetv3.hub.registry import list_weights

    return _beginning(list_weights(), incomplete)


def networks(incomplete: str) -> list[str]:
    """Returns models and trained weights."""
    return sorted(models(incomplete) + weights(incomplete))


def published(incomplete: str) -> list[str]:
    """Returns the networks that `find` compares, without tags."""
    from fbnetv3.hub.published import published as rows

    return _beginning(sorted({row.model for row in rows()}), incomplete)


def licenses(incomplete: str) -> list[str]:
    """Returns what `--license` takes."""
    from fbnetv3.hub.weights import WEIGHTS

    known = sorted({row.license for row in WEIGHTS.values()})
    return _beginning(["commercial", *known], incomplete)


def choices(*words: str) -> Completer:
    """Returns a completer for a fixed set of words."""

    def complete(incomplete: str) -> list[str]:
        return _beginning(list(words), incomplete)

    return complete


def files(*suffixes: str) -> Completer:
    """Returns a completer for existing files with these endings, and folders on the way to them."""

    def complete(incomplete: str) -> list[str]:
        return sorted(_paths(incomplete, suffixes))

    return complete


def endings(*suffixes: str) -> Completer:
    """Returns a completer for a new file: the word so far with each ending."""

    def complete(incomplete: str) -> list[str]:
        stem, dot, ending = incomplete.rpartition(".")
        if not dot or "/" in ending:
            stem, ending = incomplete, ""
        stem = f"{incomplete}model" if not stem or stem.endswith("/") else stem
        return [stem + suffix for suffix in suffixes if suffix.startswith(f".{ending}")]

    return complete


def any_of(*completers: Completer) -> Completer:
    """Returns a completer that offers what all of these do."""

    def complete(incomplete: str) -> list[str]:
        return [word for completer in completers for word in completer(incomplete)]

    return complete


def _beginning(words: list[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def _paths(incomplete: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    place, slash, name = incomplete.rpartition("/")
    folder = Path(place + slash if slash else ".").expanduser()
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    shown = [e for e in entries if e.name.startswith(name) and (e.name[0] != "." or name)]
    folders = [entry for entry in shown if entry.is_dir()]
    matching = [entry for entry in shown if entry.suffix.lower() in suffixes and entry.is_file()]
    if len(folders) == 1 and not matching:
        # Alone it would be taken for the answer, and a blank put behind it.
        yield from _paths(f"{place}{slash}{folders[0].name}/", suffixes)
        return
    for entry in folders:
        yield f"{place}{slash}{entry.name}/"
    for entry in matching:
        yield f"{place}{slash}{entry.name}"
