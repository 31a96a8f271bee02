"""The command `explain`: parsing and drawing around `models.explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fbnetv3._internal.files import check_output
from fbnetv3._internal.messages import escaped
from fbnetv3.deploy.runtimes import is_exported

from . import completion
from .options import EMBEDDED, CacheDir, Offline, Policy


def explain(
    photo: Annotated[Path, typer.Argument(help="Image to explain the answer for.")],
    model: Annotated[
        str,
        typer.Option(
            help="Model, model.tag, or local-dir:DIR.", autocompletion=completion.networks
        ),
    ] = EMBEDDED,
    class_: Annotated[
        str | None,
        typer.Option("--class", help="Class name or number; default: the most likely class."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="PNG, JPEG or SVG file to write.")
    ] = Path("explained.png"),
    license: Policy = None,
    offline: Offline = None,
    cache_dir: CacheDir = None,
) -> None:
    """Show which parts of an image speak for a class.

    Draws the image beside its class activation map (Grad-CAM). Writes --output, nothing else but
    fetched weights, to the cache.

    Examples:
        fbnetv3 explain photo.jpg
        fbnetv3 explain photo.jpg --class dog -o dog.png
        fbnetv3 explain photo.jpg --model fbnetv3_b.ra2_in1k
    """
    import torch

    from fbnetv3.deploy.classify import Classifier
    from fbnetv3.hub.create import create
    from fbnetv3.images.reader import open_image
    from fbnetv3.models.explain import activation_map, overlaid

    if is_exported(model):
        raise ValueError(
            f"{model} is an exported file, which has no gradients; expected a model's name or "
            "local-dir:DIR"
        )
    if output.suffix.lower() not in (".png", ".jpg", ".jpeg", ".svg"):
        raise ValueError(f"--output is {output}; expected a name ending in .png, .jpg or .svg")
    check_output(output)
    network = create(model, pretrained=True, license=license, offline=offline, cache_dir=cache_dir)
    image = open_image(photo)
    classifier = Classifier(network, top_k=network.num_classes)
    preprocess = classifier.preprocess
    answer = classifier(image)
    index = answer.indices[0] if class_ is None else _index(class_, classifier.class_names)
    share = answer.probabilities[answer.indices.index(index)]
    heat = activation_map(network, torch.from_numpy(preprocess(image))[None], index)
    seen, mixed = overlaid(image, heat.numpy(), preprocess)  # type: ignore[arg-type]  # not a user's function
    text = f"{classifier.class_names[index]} {100 * share:.1f} %"
    if answer.none_of_these:
        text += " (the image is probably of none of the classes)"
    _draw(output, seen, mixed, text)
    print(escaped(f"{photo}: {text}; picture in {output}"))


def _index(given: str, names: tuple[str, ...]) -> int:
    plain = {name.lower(): number for number, name in reversed(list(enumerate(names)))}
    if given.lower() in plain:
        return plain[given.lower()]
    if given.isdecimal() and int(given) < len(names):
        return int(given)
    some = ", ".join(names[:5])
    raise ValueError(f"--class is {given!r}; expected one of the {len(names)} classes: {some}, ...")


def _draw(path: Path, seen: object, mixed: object, title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.4), layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    for axis, picture in zip(figure.subplots(1, 2), (seen, mixed), strict=True):
        axis.imshow(picture)
        axis.axis("off")
    figure.savefig(path, dpi=130)
