"""The commands `fetch`, `convert` and `verify`: parsing and printing around files of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fbnetv3._internal.messages import escaped

from . import completion
from .group import FAILED, note, print_json
from .options import TABLES, CacheDir, Json, License


def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Weights (model.tag), or models.", autocompletion=completion.networks),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Download all weights.")] = False,
    license: License = None,
    cache_dir: CacheDir = None,
    json: Json = False,
) -> None:
    """Download weights and verify them.

    Writes to the cache, or --cache-dir, and says where. A download that was cut goes on where it
    was; a file whose SHA-256 is not the published or recorded one is refused, and so is one that
    does not know the package's photos. FBNETV3_MIRROR takes the place of
    https://dl.fbaipublicfiles.com.

    Examples:
        fbnetv3 fetch fbnetv3_e.meta_in1k
        fbnetv3 fetch fbnetv3_nano --json
        fbnetv3 fetch --all --license commercial --cache-dir weights
    """
    from fbnetv3.hub.cached_weights import CachedWeights
    from fbnetv3.hub.license_policy import check_license
    from fbnetv3.hub.registry import get_weights, list_weights

    if not names and not all_:
        raise ValueError("nothing to fetch; give names, or --all")
    if names and all_:
        raise ValueError(f"--all and {names[0]} exclude each other; give one of them")
    allowed = list_weights(license=license)
    chosen = allowed if all_ else [get_weights(n).name for n in names or ()]
    rows, failed = [], 0
    for name in chosen:
        weights = get_weights(name)
        try:
            if name not in allowed:
                raise ValueError(f"its licence is {weights.license}; --license asks for {license}")
            check_license(weights, license if license == "commercial" else None)
            path = CachedWeights(weights, cache_dir=cache_dir).path()
            rows.append({"name": name, "path": str(path), "error": None})
        except (OSError, ValueError) as error:
            failed += 1
            rows.append({"name": name, "path": None, "error": str(error)})
        if not json:
            print(escaped(f"{name}: {rows[-1]['path'] or 'error: ' + str(rows[-1]['error'])}"))
    if json:
        print_json(rows)
    if failed:
        note(f"{failed} of {len(chosen)} could not be fetched")
        raise typer.Exit(FAILED)


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="Checkpoint in the official, timm's or our layout.",
            autocompletion=completion.files(".safetensors", ".pth", ".pt", ".bin", ".ckpt"),
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            help="Output file, .safetensors.", autocompletion=completion.endings(".safetensors")
        ),
    ],
    model: Annotated[
        str,
        typer.Option(help="Model, or architecture JSON, of the checkpoint.", autocompletion=TABLES),
    ],
    to: Annotated[
        Literal["fbnetv3", "official", "timm"], typer.Option(help="Layout to write.")
    ] = "fbnetv3",
    force: Annotated[
        bool, typer.Option(help="Write timm's layout even if timm's model computes differently.")
    ] = False,
) -> None:
    r"""Convert a checkpoint between timm's, Meta's and our layout.

    The layout of SOURCE is recognised; a published pickle is decoded without running it. Writes
    TARGET, once all tensors have been proved to fit the model, with the license of SOURCE.

    Examples:
        fbnetv3 convert model.pth e.safetensors --model fbnetv3_e
        fbnetv3 convert mine.safetensors official.safetensors \
            --model mine.json --to official
    """
    from fbnetv3.checkpoints.checkpoint import load_strict, read_checkpoint, write_tensors
    from fbnetv3.checkpoints.convert import detect_dialect, from_fbnetv3, to_fbnetv3
    from fbnetv3.hub.file_license import PERHAPS_OFFICIAL, license_of_file
    from fbnetv3.hub.license_policy import check_terms
    from fbnetv3.hub.loading import STEM, stored_classes
    from fbnetv3.hub.registry import get_arch
    from fbnetv3.models.model import build

    if target.suffix != ".safetensors":
        raise ValueError(f"target is {target}; expected a name that ends in .safetensors")
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f"target is {target}, the file to convert; give another name")
    arch = get_arch(model)
    license = license_of_file(source)
    if license:
        check_terms(str(source), license)
    tensors, taken = read_checkpoint(source)
    found = detect_dialect(tensors)
    for remark in (str(taken), "" if license or found != "official" else PERHAPS_OFFICIAL):
        if remark:
            note(f"{source}: {remark}")
    ours = to_fbnetv3(tensors, arch, found)
    chans = ours[STEM].shape[1] if STEM in ours else 3
    load_strict(
        build(arch, device="meta", num_classes=stored_classes(ours), in_chans=chans),
        ours,
        assign=True,
        source=str(source),
    )
    written = from_fbnetv3(ours, arch, to, force=force)
    metadata = {"format": "pt", "fbnetv3.arch_sha256": arch.sha256}
    write_tensors(target, written, metadata | ({"license": license} if license else {}))
    print(f"{source} ({found}) -> {target} ({to}): {len(written)} tensors")


def verify(
    names: Annotated[
        list[str],
        typer.Argument(help="Models, or downloaded weights.", autocompletion=completion.networks),
    ],
    cache_dir: CacheDir = None,
    json: Json = False,
) -> None:
    """Check networks and weights against what is published.

    A model is compared with the published counts and with logits of the official implementation.
    Weights must have their SHA-256 and know the package's photos. What was not checked is named.
    Fetches and writes nothing; exit code 1 if any fails.

    Examples:
        fbnetv3 verify fbnetv3_a0
        fbnetv3 verify fbnetv3_nano.cifar10 --json
        fbnetv3 verify fbnetv3_e.meta_in1k
    """
    from fbnetv3.hub.verify import verify as verified

    rows: list[dict[str, Any]] = []
    for name in names:
        for result in verified(name, cache_dir=None if cache_dir is None else str(cache_dir)):
            rows.append({"model": name, **vars(result)})
            if not json:
                mark = {True: "ok  ", False: "FAIL", None: "--  "}[result.ok]
                print(escaped(f"{mark} {name}: {result.name}: {result.detail}"))
    if json:
        print_json(rows)
    if any(row["ok"] is False for row in rows):
        raise typer.Exit(FAILED)
