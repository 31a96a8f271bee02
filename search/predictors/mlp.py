"""The paper's accuracy predictor, and an ensemble of it: encoder, proxy head, accuracy head.

An encoder embeds the architecture genes in 24 dimensions; it is pretrained on costs, which are
known without training. The accuracy head maps the embedding and the recipe genes to a label through
one hidden layer. The members of an ensemble share one tensor and are trained together.

Source: the paper, section 3.3 (24-d embedding, one hidden layer, Huber loss with delta 1, 80/20
split of the pool, 50 epochs with the embedding frozen and 50 of all layers at a lower rate). The
paper states no learning rate, batch size or hidden width: AdamW at 1e-2 with batches of 16, a third
of the rate in the second phase, 24 hidden units and standardised labels, which give Huber's delta
its unit, are our choices.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from fbnetv3.search.space.space import CostsOf, Floats, Matrix, Space

from .protocol import Arrays, Ints, Prediction, Predictor, Pretraining
from .targets import Scale

WIDTH = 24
_RATE, _BATCH, _SLOWER = 1e-2, 16, 3.0
_PRETRAIN_STEPS, _PRETRAIN_BATCH = 1500, 128
# Of each phase of a fit.
_EPOCHS = 50


@contextlib.contextmanager
def _own_settings() -> Iterator[None]:
    """Has torch use its own defaults inside the block, whatever a program that trains has set."""
    before, device = torch.get_default_dtype(), torch.get_default_device()
    # A context for the device slows every operator.
    on_cpu = contextlib.nullcontext() if device.type == "cpu" else torch.device("cpu")
    torch.set_default_dtype(torch.float32)
    try:
        with on_cpu, torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Limits torch to one thread inside the block.

    These matrices are too small to parallelise, and while another process uses a core two threads
    wait for each other: 50 times slower (300 s instead of 5.6 s, on 2 cores with one in use).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class MlpModel:
    """The members of one ensemble, in standardised units; `MlpPredictor` scales labels.

    Args:
        space: the search space of the candidates.
        members: number of networks.
        seed: random seed of weights and batches; fits repeat exactly.
        freeze: keep the encoder fixed in the first half of a fit.
    """

    def __init__(self, space: Space, *, members: int, seed: int, freeze: bool = True) -> None:
        self.space, self.members, self.seed, self.freeze = space, members, seed, freeze
        recipe = [gene.group == "recipe" for gene in space.genes]
        if all(recipe):
            # No architecture genes: the paper's recipe-only search has no embedding either.
            recipe = [False] * len(recipe)
        flags = np.repeat(recipe, space.sizes)
        table = torch.from_numpy(space.encoding).float()
        used = [bool((table[:, c] * torch.from_numpy(flags)).any()) for c in range(table.shape[1])]
        self.arch_table = table[:, [not flag for flag in used]]
        self.recipe_table = table[:, used]
        self.offsets = torch.from_numpy(space.offsets)
        self.proxies: tuple[str, ...] = ()
        self.encoder: dict[str, Tensor] = {}
        self.head: dict[str, Tensor] = {}

    @_own_settings()
    @_one_thread()
    def pretrain(self, pool: Matrix, costs: Mapping[str, npt.NDArray[Any]]) -> Pretraining:
        """Trains the encoder to predict the costs of four fifths of a pool, and tests the rest."""
        rng = torch.Generator().manual_seed(self.seed)
        self.proxies = tuple(costs)
        target = torch.from_numpy(np.stack([np.asarray(costs[n], float) for n in costs], 1)).float()
        spread = target.std(0)
        target = (target - target.mean(0)) / torch.where(spread > 0, spread, 1.0)
        arch, _ = self._inputs(pool)
        order = torch.randperm(len(arch), generator=rng)
        cut = max(1, int(0.8 * len(arch)))
        train, test = order[:cut], order[cut:]
        layers = self._layers(
            {"encode": (arch.shape[1], WIDTH), "proxy": (WIDTH, len(self.proxies))},
            rng,
            self.members,
        )
        steps = _PRETRAIN_STEPS
        optimizer = _optimizer(layers.values(), _RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            pick = train[torch.randint(len(train), (self.members, _PRETRAIN_BATCH), generator=rng)]
            found = _linear(F.relu(_linear(arch[pick], layers, "encode")), layers, "proxy")
            loss = F.mse_loss(found, target[pick])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch publishes no type here
            optimizer.step()
            schedule.step()
        self.encoder = {key: value.detach() for key, value in layers.items()}
        with torch.no_grad():
            wide = arch[test].expand(self.members, -1, -1)
            hidden = F.relu(_linear(wide, self.encoder, "encode"))
            found = _linear(hidden, self.encoder, "proxy").mean(0)
        return _report(self.proxies, target[test], found)

    def fit(
        self, rows: Matrix, targets: Floats, *, epochs: int = _EPOCHS, length: Floats | None = None
    ) -> None:
        """Trains a new head, and after `epochs` the encoder too, on standardised targets.

        Args:
            rows: (n, num_genes) candidates.
            targets: (n,).
            epochs: number of epochs of each of the two phases.
            length: (n,) a further input, 0 for what is predicted; None: there is none.
        """
        known = np.ones((1, len(targets)), np.bool_)
        self.head = self._fit(rows, targets[None], known, epochs=epochs, length=length)

    def fit_folds(
        self,
        rows: Matrix,
        targets: Floats,
        known: npt.NDArray[np.bool_],
        *,
        length: Floats | None = None,
    ) -> Floats:
        """Fits one ensemble to each fold, all at once, and keeps the first.

        Args:
            rows: (n, num_genes) candidates.
            targets: (folds, n).
            known: (folds, n) which targets a fold is fitted to; all of the first.
            length: see `fit`.

        Returns:
            (folds, n) what each fold predicts without the further input, mean over its members.
        """
        head = self._fit(rows, targets, known, epochs=_EPOCHS, length=length)
        wide = MlpModel(self.space, members=len(known) * self.members, seed=self.seed)
        wide.head = head
        self.head = {key: value[: self.members].clone() for key, value in head.items()}
        return np.asarray(wide.predict(rows).reshape(len(known), self.members, -1).mean(1))

    @_own_settings()
    @_one_thread()
    def _fit(
        self,
        rows: Matrix,
        targets: Floats,
        known: npt.NDArray[np.bool_],
        *,
        epochs: int,
        length: Floats | None,
    ) -> dict[str, Tensor]:
        """Returns the layers of the members of all folds, see `fit_folds`."""
        rng = torch.Generator().manual_seed(self.seed + 1)
        arch, recipe = self._inputs(rows)
        if length is not None:
            recipe = torch.cat([recipe, torch.from_numpy(length).float()[:, None]], 1)
        label = torch.from_numpy(targets).float().repeat_interleave(self.members, 0)
        sizes = {"hidden": (WIDTH + recipe.shape[1], WIDTH), "out": (WIDTH, 1)}
        if not self.encoder:
            sizes = {"encode": (arch.shape[1], WIDTH), **sizes}
        layers = self._layers(sizes, rng, len(label))
        for key, value in self.encoder.items():
            if key.startswith("encode"):
                layers[key] = value.repeat(len(known), 1, 1).requires_grad_()
        frozen = self.freeze and bool(self.encoder)
        own = [torch.from_numpy(np.flatnonzero(one)) for one in known for _ in range(self.members)]
        for phase in range(2):
            fixed = frozen and phase == 0
            trained = [v for k, v in layers.items() if not (fixed and k.startswith("encode"))]
            rate = _RATE if phase == 0 else _RATE / _SLOWER
            self._train(layers, _optimizer(trained, rate), arch, recipe, label, own, epochs, rng)
        return {key: value.detach() for key, value in layers.items()}

    @_own_settings()
    def predict(self, rows: Matrix) -> Floats:
        """Returns each member's prediction (members, P) in standardised units."""
        if not self.head:
            raise ValueError("the predictor has no labels yet; call fit first")
        with torch.no_grad():
            table, bias = self._first_layer()
            out = [
                self._chunk(rows[start : start + 10_000], table, bias)
                for start in range(0, len(rows), 10_000)
            ]
            joined: Floats = torch.cat(out, 1).double().numpy() if out else np.zeros((1, 0))
        return joined

    def _first_layer(self) -> tuple[Tensor, Tensor]:
        """Returns what each value of each gene adds to encoder and hidden layer, and their bias."""
        wide = self.members * WIDTH
        encode = torch.einsum("sd,mdh->smh", self.arch_table, self.head["encode.w"])
        # Behind them may be the weights of the length, which is 0 here.
        wide_recipe = self.head["hidden.w"][:, WIDTH : WIDTH + self.recipe_table.shape[1]]
        recipe = torch.einsum("sd,mdh->smh", self.recipe_table, wide_recipe)
        table = torch.cat([encode.reshape(-1, wide), recipe.reshape(-1, wide)], 1)
        bias = torch.cat([self.head["encode.b"].flatten(), self.head["hidden.b"].flatten()])
        return table, bias

    def _chunk(self, rows: Matrix, table: Tensor, bias: Tensor) -> Tensor:
        flat = torch.from_numpy(self.space.canonical(rows).astype(np.int64)) + self.offsets
        first = (F.embedding_bag(flat, table, mode="sum") + bias).view(len(rows), 2, -1, WIDTH)
        embedding = F.relu(first[:, 0]).transpose(0, 1)
        hidden = torch.baddbmm(
            first[:, 1].transpose(0, 1), embedding, self.head["hidden.w"][:, :WIDTH]
        )
        return _linear(F.relu(hidden), self.head, "out").squeeze(-1)

    def _train(
        self,
        layers: dict[str, Tensor],
        optimizer: torch.optim.Optimizer,
        arch: Tensor,
        recipe: Tensor,
        label: Tensor,
        own: Sequence[Tensor],
        epochs: int,
        rng: torch.Generator,
    ) -> None:
        """Trains members (M,) on the labels (M, n) of their own candidates."""
        # About 64 steps per epoch at most, or a fit of thousands of labels would take minutes.
        num = label.shape[1]
        size = min(max(_BATCH, num // 64), num)
        steps = math.ceil(num / size)
        for _ in range(epochs):
            order = torch.stack([_order(one, num, rng) for one in own])
            for step in range(steps):
                pick = order[:, step * size : (step + 1) * size]
                embedding = F.relu(_linear(arch[pick], layers, "encode"))
                hidden = F.relu(_linear(torch.cat([embedding, recipe[pick]], 2), layers, "hidden"))
                found = _linear(hidden, layers, "out").squeeze(-1)
                # Summed over members, so that each has the gradient it would have alone.
                wanted = label.gather(1, pick)
                loss = F.huber_loss(found, wanted, reduction="none").mean(1).sum()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch publishes no type here
                optimizer.step()

    def _inputs(self, rows: Matrix) -> tuple[Tensor, Tensor]:
        flat = torch.from_numpy(self.space.canonical(rows).astype(np.int64)) + self.offsets
        parts = [F.embedding_bag(flat, t, mode="sum") for t in (self.arch_table, self.recipe_table)]
        return parts[0], parts[1]

    def _layers(
        self,
        sizes: Mapping[str, tuple[int, int]],
        rng: torch.Generator,
        members: int,
    ) -> dict[str, Tensor]:
        """Returns initial weights, uniform within 1 / sqrt(inputs) as in torch's linear layers."""
        layers = {}
        for name, (inputs, outputs) in sizes.items():
            bound = 1 / math.sqrt(max(inputs, 1))
            for key, shape in (("w", (inputs, outputs)), ("b", (1, outputs))):
                value = torch.empty(members, *shape).uniform_(-bound, bound, generator=rng)
                layers[f"{name}.{key}"] = value.requires_grad_()
        return layers


def _order(own: Tensor, num: int, rng: torch.Generator) -> Tensor:
    """Returns (num,) indices in random order: all of `own`, some of them again to fill up."""
    order = own[torch.randperm(len(own), generator=rng)]
    if len(own) == num:
        return order
    return torch.cat([order, own[torch.randint(len(own), (num - len(own),), generator=rng)]])


def _linear(x: Tensor, layers: Mapping[str, Tensor], name: str) -> Tensor:
    return torch.baddbmm(layers[f"{name}.b"], x, layers[f"{name}.w"])


def _optimizer(parameters: Any, rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(list(parameters), lr=rate, fused=True)


def _report(names: tuple[str, ...], truth: Tensor, found: Tensor) -> Pretraining:
    error = ((truth - found) ** 2).sum(0)
    total = ((truth - truth.mean(0)) ** 2).sum(0).clamp_min(1e-12)
    return Pretraining(
        r2={n: float(1 - error[c] / total[c]) for c, n in enumerate(names)},
        truth={n: truth[:, c].double().numpy() for c, n in enumerate(names)},
        predicted={n: found[:, c].double().numpy() for c, n in enumerate(names)},
    )


class MlpPredictor(Predictor):
    """An `MlpModel` that is fitted to labels and predicts in their unit."""

    def __init__(
        self,
        space: Space,
        *,
        kind: str = "mlp_ensemble",
        target: str = "log_error",
        members: int = 5,
        seed: int = 0,
        freeze: bool = True,
        warped: bool = True,
    ) -> None:
        self.kind, self.space, self.scale = kind, space, Scale(target, warped=warped)
        self.model = MlpModel(space, members=members, seed=seed, freeze=freeze)

    def pretrain(self, pool: Matrix, costs: Mapping[str, npt.NDArray[Any]]) -> Pretraining:
        """Trains the encoder on the costs of a pool."""
        return self.model.pretrain(pool, costs)

    @property
    def pretrained(self) -> bool:
        """Whether the encoder was trained on costs."""
        return bool(self.model.encoder)

    def fit(self, rows: Matrix, labels: Floats) -> None:
        """Fits labels (n,) of candidates (n, num_genes)."""
        self.model.fit(rows, self.scale.learn(labels))

    def fit_rungs(self, rows: Matrix, labels: Floats, shares: Floats) -> None:
        """Fits labels of several lengths, with the logarithm of the share as one more input."""
        targets, length = self.scale.learn_rungs(labels, shares)
        self.model.fit(rows, targets, length=length)

    def fit_held_out(self, rows: Matrix, labels: Floats, shares: Floats, fold: Ints) -> Floats:
        """Fits all labels and returns (n,) the predictions of those held out, in one training."""
        numbers = [-1, *np.unique(fold[fold >= 0])]
        known = np.stack([(fold != number) | (number < 0) for number in numbers])
        scales = [Scale(self.scale.target, warped=self.scale.warped) for _ in numbers]
        targets, length = np.zeros(known.shape), None
        for one, scale, target in zip(known, scales, targets, strict=True):
            if (shares == shares.max()).all():
                target[one] = scale.learn(labels[one])
            else:
                target[one], found = scale.learn_rungs(labels[one], shares[one])
                length = found if length is None else length
        self.scale = scales[0]
        predicted = np.full(len(labels), np.nan)
        means = self.model.fit_folds(rows, targets, known, length=length)
        for number, scale, mean in zip(numbers[1:], scales[1:], means[1:], strict=True):
            held = fold == number
            predicted[held] = scale.invert(mean[held], np.zeros(held.sum())).mean
        return predicted

    def predict(self, rows: Matrix) -> Prediction:
        """Returns the mean and standard deviation over the members."""
        members = self.model.predict(rows)
        return self.scale.invert(members.mean(0), members.std(0))

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Returns weights and settings."""
        parts = {"encoder": self.model.encoder, "head": self.model.head}
        arrays = {f"{p}.{k}": v.numpy() for p, layers in parts.items() for k, v in layers.items()}
        settings = {
            "members": self.model.members,
            "seed": self.model.seed,
            "freeze": self.model.freeze,
            "proxies": list(self.model.proxies),
            "scale": self.scale.to_dict(),
        }
        return arrays, settings

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any]) -> None:
        """Restores what `state` returned."""
        self.scale = Scale.from_dict(settings["scale"])
        for name in ("members", "seed", "freeze"):
            setattr(self.model, name, settings[name])
        self.model.proxies = tuple(settings["proxies"])
        for part, layers in (("encoder", self.model.encoder), ("head", self.model.head)):
            layers.clear()
            for key, value in arrays.items():
                if key.startswith(part + "."):
                    layers[key[len(part) + 1 :]] = torch.from_numpy(value.copy())


def single_mlp(
    space: Space, *, target: str, seed: int, costs: CostsOf | None = None
) -> MlpPredictor:
    """Returns the paper's predictor: one network on raw labels, whatever the target."""
    del target, costs
    return MlpPredictor(space, kind="mlp", target="raw", members=1, seed=seed, warped=False)


def mlp_ensemble(
    space: Space, *, target: str, seed: int, costs: CostsOf | None = None
) -> MlpPredictor:
    """Returns five networks whose mean is the prediction."""
    del costs
    return MlpPredictor(space, target=target, seed=seed)
