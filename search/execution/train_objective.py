"""The objective of a search that trains: a candidate's label is its validation accuracy.

The label of an epoch is top-1 in percent on images held out of the training set by `split_seed`,
with EMA weights if the recipe has them. A diverged training gives NaN.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fbnetv3._internal.messages import counted
from fbnetv3.search.space.layout import gene_of
from fbnetv3.search.space.spaces import open_space, with_network
from fbnetv3.search.training.recipe import SCHEMA, Recipe

from .objective import share_of

if TYPE_CHECKING:
    from fbnetv3.search.data.image_set import ImageSet
    from fbnetv3.search.space.space import Space
    from fbnetv3.search.training.logbook import EpochLog
    from fbnetv3.search.training.networks import Network


# With this many images an accuracy of 50 % has a standard error of 0.8 points.
_NUM_VAL = 4000
# With fewer steps in an epoch, its label says little.
_FEW_STEPS = 5
# In fewer steps networks learn too little to be told apart. A rung is at most a quarter of
# the final steps, as it would not pay.
_FEWEST_ON_RUNG, _LEAST_PART = 128, 4
# Epochs of a rung whose rate falls only after every epoch, so that it does fall.
_FEWEST_DECAYS = 4


def default_num_val(num_images: int) -> int:
    """Returns how many of a set's images are held out for validation if nothing else is said."""
    return min(_NUM_VAL, num_images // 5)


class TrainObjective:
    """Trains candidates of a space with `train.train_epochs`.

    The settings describe the final training, the one that counts. A rung is a share of its steps
    with the same schedule, complete, and with the recipe of that length (`Recipe.lengthened`): it
    trains for fewer epochs, of which each has fewer images where the share asks for it.

    A trial's seed determines initial weights, order of images and augmentation; all trials use the
    same images. With checkpoints, a trial that was killed resumes from its last epoch, with the
    same result.

    Args:
        space: name of a built-in space, or path of a JSON file; the space must describe networks,
            or with `model` recipes for a fixed one.
        data: folder of images, see `data.open_training`.
        epochs: length of the final training's schedule, of which early stopping trains only the
            first part.
        num_classes: number of classes, drawn by `split_seed` (the paper searched on 200 classes of
            ImageNet); None: all.
        num_train: number of images to train on; None: all that are not held out.
        num_val: number of training images to hold out for validation; None: 4,000, or a fifth of
            the images if that is less.
        split_seed: random seed of these three choices.
        checkpoints: folder for the state of running trials and the weights of full trainings;
            None: keep neither.
        device: "cpu" or "cuda"; None: the GPU if there is one.
        recipe: recipe fields for all candidates, such as `{"batch_size": 64}`.
        model: network that all candidates train, in place of the space's: a name as in
            `training.networks.open_network`, such as "timm:resnet50". It starts untrained. Rates of
            dropout and stochastic depth that it does not take are left out of the space.

    Raises:
        ValueError: the space describes no network, `model` is unknown or the space has genes of a
            network beside it, there are too few images, or the device is not
            available.
        FileNotFoundError: the data do not exist.
    """

    def __init__(
        self,
        space: str,
        data: str,
        *,
        epochs: int,
        num_classes: int | None = None,
        num_train: int | None = None,
        num_val: int | None = None,
        split_seed: int = 0,
        checkpoints: str | None = None,
        device: str | None = None,
        recipe: Mapping[str, Any] | None = None,
        model: str | None = None,
    ) -> None:
        from fbnetv3._internal.devices import known_device
        from fbnetv3.search.data.datasets import open_training, search_split
        from fbnetv3.search.data.splitting import hold_out

        self.space = open_space(space) if model is None else recipes_of(open_space(space), model)
        self._model, self._data = model, data
        self.epochs, self._device, self._split_seed = epochs, device, split_seed
        self._fixed = {**dict(recipe or {}), "epochs": epochs}
        self._checkpoints = Path(checkpoints) if checkpoints else None
        if device is not None:
            known_device(device)
        images = open_training(Path(data))
        images.need_single_label("a search, which compares top-1,")
        for text in images.notes:
            warnings.warn(text, stacklevel=2)
        if num_val is None:
            num_val = default_num_val(len(images))
        if not 0 < num_val < len(images):
            raise ValueError(
                f"num_val is {num_val}; {data} has {len(images)} images to train and validate on"
            )
        if num_classes is None:
            rest, self._val = hold_out(images, num_val, seed=split_seed)
        else:
            rest, self._val = search_split(
                images, num_classes=num_classes, num_held=num_val, seed=split_seed
            )
        self._train = rest if num_train is None else self._some(rest, num_train, split_seed)
        largest = self._largest_batch()
        if largest > len(self._train):
            raise ValueError(
                f"{data} has {len(self._train)} images to train on, less than one batch of "
                f"{largest}; give a smaller batch, as an eighth of the images: "
                + _smaller_batch(len(self._train))
            )
        if model is not None:
            self._check_sides(model)
        steps = len(self._train) // largest
        self._steps = epochs * steps
        if steps < _FEW_STEPS:
            warnings.warn(
                f"an epoch of {len(self._train)} images is {counted(steps, 'step')} of {largest}, "
                f"too few to learn from; give a smaller batch, {_smaller_batch(len(self._train))}, "
                f"or more epochs than {epochs}",
                stacklevel=2,
            )

    def __str__(self) -> str:
        """What it trains on, one line."""
        classes = counted(self.num_classes, "class", "classes")
        return (
            f"{self._data}: {classes}, {counted(len(self._train), 'image')} to train on, "
            f"{len(self._val):,} to validate on"
        )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self._train.classes)

    def _largest_batch(self) -> int:
        """Returns the largest batch size among the recipes of all candidates."""
        return max(recipe.batch_size for recipe in self._recipes("batch_size"))

    def _check_sides(self, name: str) -> None:
        """Checks that the network that all candidates train takes all their resolutions."""
        from fbnetv3.search.training.networks import check_input, preprocess_for

        recipes = {recipe.resolution: recipe for recipe in self._recipes("resolution")}
        network = self._network([0] * len(self.space.genes), next(iter(recipes.values())))
        for side in recipes:
            check_input(network.model, preprocess_for(network, self._train, side).crop, name)

    def _recipes(self, field: str) -> list[Recipe]:
        """Returns a recipe for each value that candidates have for a field."""
        gene = gene_of(self.space.layout.recipe.get(field))
        size = 1 if gene is None else len(self.space.gene(gene).values)
        rows = np.zeros((size, len(self.space.genes)), np.int16)
        if gene is not None:
            rows[:, self.space.column(gene)] = np.arange(size)
        return [self.recipe(row) for row in rows.tolist()]

    def _network(self, row: Sequence[int], recipe: Recipe) -> Network:
        """Returns a candidate's network with fresh weights."""
        from fbnetv3.models.model import build
        from fbnetv3.search.training.foreign import is_foreign
        from fbnetv3.search.training.networks import Network, open_network

        if self._model is not None and is_foreign(self._model):
            return open_network(
                self._model,
                num_classes=self.num_classes,
                pretrained=False,
                dropout=recipe.dropout,
                drop_path=recipe.drop_path,
            )
        arch = self.space.decode(np.array(row))[0]
        made = build(
            arch,
            num_classes=self.num_classes,
            drop_rate=recipe.dropout,
            drop_path_rate=recipe.drop_path,
        )
        return Network(made)

    @staticmethod
    def _some(images: ImageSet, num: int, seed: int) -> ImageSet:
        from fbnetv3.search.data.splitting import hold_out

        return images if num >= len(images) else hold_out(images, num, seed=seed + 1)[1]

    def recipe(self, row: Sequence[int]) -> Recipe:
        """Returns the recipe that a candidate is trained with."""
        fields = {"schema": SCHEMA, **self.space.recipe(np.array(row)), **self._fixed}
        return Recipe.from_dict(fields)

    def usual_rung(self, fidelity: float) -> float:
        """Returns the share of a rung if none is asked for.

        Args:
            fidelity: the share, where that is enough steps to learn something.
        """
        part = min(round(1 / fidelity), self._steps // _FEWEST_ON_RUNG)
        return 1 / max(_LEAST_PART, part)

    def epochs_at(self, fidelity: float) -> int:
        """Returns the number of epochs of a rung.

        Raises:
            ValueError: the rung has not one batch of images in an epoch.
        """
        epochs, num = self._length(fidelity)
        if num < self._largest_batch():
            raise ValueError(
                f"a rung of {fidelity:g} trains on {num} images, less than one batch of "
                f"{self._largest_batch()}; give a larger rung, or a smaller batch_size in the "
                "recipe"
            )
        return epochs

    def _length(self, fidelity: float) -> tuple[int, int]:
        """Returns epochs of a training of a share of the final steps, and the images of each."""
        epochs = share_of(self.epochs, fidelity)
        known = {**self.space.layout.recipe, **self._fixed}.get("schedule")
        if known not in ("cosine", "linear", "constant"):
            epochs = max(epochs, min(self.epochs, _FEWEST_DECAYS))
        return epochs, round(fidelity * self.epochs / epochs * len(self._train))

    def evaluate(
        self, row: Sequence[int], *, seed: int, epochs: int, fidelity: float = 1.0
    ) -> Iterator[float]:
        """Yields top-1 in percent after each of `epochs` epochs; stops after NaN.

        Raises:
            ValueError: `epochs` exceeds the schedule.
        """
        schedule, num = self._length(fidelity)
        if not 1 <= epochs <= schedule:
            raise ValueError(f"epochs is {epochs}; expected 1 to {schedule}, the schedule")
        import torch

        from fbnetv3._internal.errors import Diverged
        from fbnetv3.search.training.foreign import is_foreign, write_record
        from fbnetv3.search.training.networks import preprocess_for
        from fbnetv3.search.training.seeds import derive_seed
        from fbnetv3.search.training.train import Hardware, TrainConfig, train_epochs

        recipe = self.recipe(row)
        images = self._some(self._train, num, self._split_seed + 1)
        if fidelity < 1:
            recipe = recipe.lengthened(schedule, data_times=num / len(self._train))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "weights"))
            network = self._network(row, recipe)
        folder = None
        if self._checkpoints is not None:
            name = weights_name(self.space, row, seed)
            folder = self._checkpoints / (name if fidelity == 1 else f"{name}-{fidelity:g}")
            if self._model is not None and is_foreign(self._model):
                write_record(folder, self._model)
        config = TrainConfig(
            recipe=recipe,
            preprocess=preprocess_for(network, images, recipe.resolution),
            seed=seed,
            folder=folder,
            stop_epoch=epochs,
            hardware=Hardware.of(self._device),
        )
        last = math.nan
        try:
            for log in train_epochs(network.model, images, self._val, config):
                if log.epoch < epochs:
                    yield _label(log)
                else:
                    last = _label(log)
        except Diverged:
            last = math.nan
        if folder is not None:
            # Thousands of shortened trainings keep no weights; `fbnetv3-search export` writes those
            # of full trainings.
            full = epochs == self.epochs and fidelity == 1
            unwanted = folder / "checkpoints" if full else folder
            shutil.rmtree(unwanted, ignore_errors=True)
        # The caller may stop after the last label, so that the weights are written before it.
        yield last


def recipes_of(space: Space, model: str) -> Space:
    """Returns a space of recipes for the network of a name, without rates that it does not take.

    Raises:
        ValueError: the name is unknown, or the space has genes of a network.
    """
    from fbnetv3.hub.registry import get_arch
    from fbnetv3.search.training.foreign import is_foreign
    from fbnetv3.search.training.networks import open_network

    if not is_foreign(model):
        return with_network(space, get_arch(model))
    open_network(model)
    without = []
    for name in ("dropout", "drop_path"):
        if space.layout.recipe.get(name):
            try:
                open_network(
                    model,
                    dropout=0.1 * (name == "dropout"),
                    drop_path=0.1 * (name == "drop_path"),
                )
            except ValueError:
                without.append(name)
    return with_network(space, None, without=without)


def weights_name(space: Space, row: Sequence[int], seed: int) -> str:
    """Returns the name of a training's folder, which `fbnetv3.create` loads as local-dir."""
    return f"{space.digest(np.array(row))[:24]}-{seed}"


def _smaller_batch(num_train: int) -> str:
    """Returns the option for a batch of an eighth of the images, of 16 at most."""
    size = min(16, 2 * max(1, num_train // 16))
    return f"--set 'recipe={{\"batch_size\": {size}}}'"


def _label(log: EpochLog) -> float:
    found = log.top1_pct if log.ema_top1_pct is None else log.ema_top1_pct
    return math.nan if found is None else found
