"""What `finish` makes: the final models of a search, with the recipe that each is trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fbnetv3._internal.json_record import read_object
from fbnetv3.arch.arch import Arch
from fbnetv3.arch.counts import count
from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.execution.spec import space_of
from fbnetv3.search.execution.train_objective import default_num_val
from fbnetv3.search.nars.limit import limit_text
from fbnetv3.search.storage.results import write_json
from fbnetv3.search.storage.store import Store
from fbnetv3.search.training.recipe import SCHEMA, Recipe

SETTINGS = "finish.json"


@dataclass(frozen=True, kw_only=True)
class Final:
    """A model to train in full.

    Attributes:
        name: name of its folder: the number of the first result that it is of.
        limits: the limits that it is the result for, as text.
        network: what `open_network` builds: an architecture's file, or "timm:NAME".
        arch: the architecture; None for another library's network.
        recipe: what it is trained with.
        searched: its figures in the search, as in `candidate.json`.
    """

    name: str
    limits: tuple[str, ...]
    network: str
    arch: Arch | None
    recipe: Recipe
    searched: Mapping[str, Any]

    def macs(self) -> int:
        """Returns the MACs in the paper's convention; 0 for another library's network."""
        if self.arch is None:
            return 0
        return count(self.arch, self.recipe.resolution or self.arch.resolution).macs_paper


def finals_of(
    store: Store, *, epochs: int | None, data_times: float, fields: Mapping[str, Any]
) -> list[Final]:
    """Returns the final models of a finished search, one for each distinct result.

    Args:
        store: the search.
        epochs: length of the final trainings; None: that of the search's full trainings.
        data_times: how many times the images of a candidate the final trainings see in an epoch.
        fields: recipe fields that replace those found.

    Raises:
        ValueError: the search has not finished, found nothing within its limits, or has no
            networks; or a recipe is incomplete.
    """
    need_networks(store)
    folders = sorted((store.folder / "answers").glob("*"), key=lambda path: int(path.name))
    if not folders:
        raise ValueError(f"{store.folder} has no results yet; resume the search first")
    objective = store.settings.get("objective", {})
    found: dict[tuple[str, str], Final] = {}
    for folder in folders:
        candidate = read_object(folder / "candidate.json")
        if not candidate["contenders"]:
            continue
        path = folder / "architecture.json"
        arch = Arch.from_json(path.read_bytes()) if path.is_file() else None
        network = str(path) if arch else objective.get("model")
        assert network is not None
        recipe = _recipe(folder, epochs, data_times, fields)
        key = (arch.sha256 if arch else network, recipe.to_json())
        limit = limit_text(candidate["limit"]) or "no limit"
        if key in found:
            found[key] = replace(found[key], limits=(*found[key].limits, limit))
            continue
        found[key] = Final(
            name=folder.name,
            limits=(limit,),
            network=network,
            arch=arch,
            recipe=recipe,
            searched=candidate["contenders"][0],
        )
    if not found:
        raise ValueError(f"{store.folder} found no candidate within its limits; nothing to finish")
    return list(found.values())


def need_networks(store: Store) -> None:
    """Checks that a search has networks to train.

    Raises:
        ValueError: it has none; the message says what it has instead.
    """
    space = space_of(store.settings)
    if space.layout.arch is not None or store.settings.get("objective", {}).get("model"):
        return
    genes = ", ".join(gene.name for gene in space.genes[:6]) + (", ..." * (len(space.genes) > 6))
    raise ValueError(
        f"the search in {store.folder} has no networks of its own to train, only values of {genes} "
        f"for a program of yours: train with the best, in {store.folder / 'answers'}, which "
        f"fbnetv3-search export {store.folder} --out DIR copies"
    )


def largest(finals: list[Final]) -> Final:
    """Returns the model with the most MACs, which teaches the others."""
    return max(finals, key=Final.macs)


def check_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Remembers with which settings a folder of final models is made; refuses others later.

    Raises:
        ValueError: the folder was begun with other settings; the message names one.
    """
    path = out / SETTINGS
    if not path.is_file():
        write_json(path, settings)
        return
    begun = read_object(path)
    for name, value in settings.items():
        if begun.get(name) != value:
            raise ValueError(
                f"{out} was begun with {name}={begun.get(name)!r}, and now {name} is {value!r}; "
                "give the same settings, or another --out"
            )


def searched_images(
    objective: Mapping[str, Any], images: ImageSet, val_images: ImageSet
) -> int | None:
    """Returns how many images a candidate of the search was trained on, None if unknown.

    Args:
        objective: settings of the search's objective.
        images: training set.
        val_images: validation set; one that was split off the training set was searched on.
    """
    if objective.get("kind") != "train":
        return None
    split = val_images.name.endswith("(validation part)")
    total = len(images) + (len(val_images) if split else 0)
    share = (objective.get("num_classes") or len(images.classes)) / len(images.classes)
    held = objective.get("num_val")
    rest = round(total * share) - (default_num_val(total) if held is None else held)
    return min(rest, objective.get("num_train") or rest)


def _recipe(
    folder: Path,
    epochs: int | None,
    data_times: float,
    fields: Mapping[str, Any],
) -> Recipe:
    """Returns a result's recipe at the final length, then with the given fields."""
    path = folder / "recipe.json"
    known = read_object(path) if path.is_file() else {}
    if "epochs" not in known and epochs is None:
        raise ValueError(f"the recipe of result {folder.name} has no epochs; give --epochs")
    found = Recipe.from_dict({"schema": SCHEMA, "epochs": epochs, **known})
    if "epochs" in known:
        found = found.lengthened(epochs or found.epochs, data_times=data_times)
    return Recipe.from_dict({**found.to_dict(), **fields})
