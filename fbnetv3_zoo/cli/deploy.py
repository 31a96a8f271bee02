"""The command `export`: parsing and printing around the library."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fbnetv3._internal.files import sha256_of
from fbnetv3._internal.messages import counted
from fbnetv3.deploy.runtimes import ONNX, RUNTIMES, is_exported, runtime_of, suffixes
from fbnetv3.deploy.words import Dynamic, Precision

from . import completion
from .group import note, print_json, print_table

if TYPE_CHECKING:
    from fbnetv3.models.model import FBNetV3

# A classifier of so many has several gigabytes.
_MAX_CLASSES = 1_000_000
# Larger images are told of: 800 pixels take fbnetv3_nano 2.4 GB, 5000 took it 9 GB.
_LARGE_SIDE = 1024
# Said where the comparison of logits does not depend on all weights.
_EVIDENCE = {
    "scaled copy": "the logits do not depend on all weights, so that the export was also checked "
    "on a copy with random batch-norm scales",
    "none": "the logits do not depend on the image, so that this comparison proves nothing about "
    "the weights",
}


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="Model, model.tag, arch.json, local-dir:DIR, ..., or an exported .onnx file.",
            autocompletion=completion.any_of(
                completion.networks, completion.files(".json", ONNX.suffix)
            ),
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Output file; its extension selects the runtime: "
            + ", ".join(f"{one.suffix} ({one.name})" for one in RUNTIMES.values())
            + ".",
            autocompletion=completion.endings(*suffixes()),
        ),
    ] = None,
    triton: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a Triton (KServe v2) model repository to add the model to, in place "
            "of --output."
        ),
    ] = None,
    pretrained: Annotated[
        bool | None, typer.Option(help="Load pretrained weights; default: if the model has any.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint to load instead.")] = None,
    image_size: Annotated[
        int | None,
        typer.Option(help="Input height and width in pixels; default: that of the weights."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="The only batch size of the file; default: any, if it can.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(help="Number of classes of a new classifier, or of --checkpoint.")
    ] = None,
    dynamic: Annotated[
        Literal[Dynamic, "none"] | None,
        typer.Option(help="Dynamic axes of the input; default: batch, without --batch-size."),
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="Precision of weights and arithmetic.")
    ] = "fp32",
    opset: Annotated[int | None, typer.Option(help="ONNX opset, 18 or later; default: 18.")] = None,
    include_preprocess: Annotated[
        bool, typer.Option(help="Take uint8 (N, H, W, 3) images and normalize in the graph.")
    ] = False,
    check_target: Annotated[
        bool, typer.Option(help="Report which operators mobile providers and TensorRT support.")
    ] = False,
    license: Annotated[
        str | None,
        typer.Option(
            help="SPDX name of the license of your own weights; default: as stored with them.",
            autocompletion=completion.licenses,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the model, in the file and on a server; default: that of the weights, or "
            "of the folder."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a network to a file for another runtime.

    Writes OUTPUT (and the .bin beside an .xml) once its answers have been compared with the
    model's; what differs is not written. The file carries its table, labels, preprocessing and
    licence. OpenVINO, LiteRT and ExecuTorch are optional parts; a .tflite file is written in an
    environment of its own, by a command that is printed; a .pt2 file is compiled for this machine
    and needs a C++ compiler. --triton writes an ONNX file with a configuration for a server that
    makes batches of requests. An exported or quantized .onnx file in place of MODEL is converted.

    Examples:
        fbnetv3 export fbnetv3_nano.cifar10 -o nano.onnx
        fbnetv3 export local-dir:run -o run.xml
        fbnetv3 export fbnetv3_nano.cifar10 -o big.onnx --image-size 64 --batch-size 4
        fbnetv3 export fbnetv3_nano.cifar10 --triton models
    """
    if (output is None) == (triton is None):
        raise ValueError("give --output FILE or --triton FOLDER, one of them")
    if name is not None and not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"name is {name!r}; expected letters, digits, '_', '-' and '.'")
    target = output or Path(f"model{ONNX.suffix}")
    runtime = runtime_of(target)
    asked_dynamic = dynamic
    if dynamic is None:
        dynamic = "batch" if batch_size is None else "none"
    elif dynamic != "none" and batch_size is not None:
        raise ValueError(f"--batch-size {batch_size} and --dynamic {dynamic}; give one of them")
    _check_options(
        target,
        {
            f"--dynamic {dynamic}": runtime.written_from == "model" and dynamic == "batch+size",
            f"--precision {precision}": runtime.written_from == "model" and precision != "fp32",
            f"--opset {opset}": runtime.written_from == "model" and opset is not None,
            "--include-preprocess": runtime.written_from == "model" and include_preprocess,
            "--check-target": runtime.written_from == "model" and check_target,
        },
    )
    if is_exported(model):
        made_with = {
            "--pretrained": pretrained,
            "--checkpoint": checkpoint,
            "--image-size": image_size,
            "--batch-size": batch_size,
            "--num-classes": num_classes,
            "--opset": opset,
            "--license": license,
            "--name": name,
            "--dynamic": asked_dynamic,
            "--precision": None if precision == "fp32" else precision,
            "--include-preprocess": include_preprocess or None,
            "--check-target": check_target or None,
        }
        _export_file(Path(model), target, triton, made_with, json=json)
        return
    runtime.need_writer()  # before a model is made
    from fbnetv3.deploy.describe import preprocess_for
    from fbnetv3.deploy.export import MIN_OPSET, to_onnx

    made = created(model, pretrained, checkpoint, num_classes)
    if license is not None:
        _state_license(made, license, model)
    if name is not None:
        made.pretrained_cfg = made.default_cfg = {**made.pretrained_cfg, "name": name}
    if not made.num_classes:
        count = made.head_hidden_size
        note(f"{model} has no classifier: the file gives {count} features of an image, no classes")
    preprocess = preprocess_for(made, image_size)
    if preprocess.crop > _LARGE_SIDE:
        note(
            f"a file for images of {preprocess.crop} x {preprocess.crop} pixels is checked with "
            "such images, which takes gigabytes of memory; an ONNX file with --dynamic batch+size "
            "takes any size and is checked at the usual one"
        )
    if runtime.written_from == "model":
        parity = runtime.file.export(made, target, preprocess=preprocess, batch_size=batch_size)
        _print_export(target, runtime.parts(target), parity.to_dict(), json=json)
        return
    options: dict[str, Any] = {
        "dynamic": None if dynamic == "none" else dynamic,
        "precision": precision,
        "opset": MIN_OPSET if opset is None else opset,
        "include_preprocess": include_preprocess,
        "preprocess": preprocess,
        "batch_size": batch_size,
    }
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / f"model{ONNX.suffix}"
        onnx_path = target if output is not None and runtime is ONNX else temporary
        found = to_onnx(made, onnx_path, **options)
        parity = found.parity if runtime is ONNX else runtime.file.convert(onnx_path, target)
        coverage = []
        if check_target:
            from fbnetv3.deploy.targets import check_targets

            coverage = check_targets(onnx_path)
        if triton is not None:
            from fbnetv3.deploy.model_repository import write_repository

            target = write_repository(onnx_path, triton).model_path
    _print_export(target, runtime.parts(target), parity.to_dict(), json=json, coverage=coverage)


def _export_file(
    source: Path, target: Path, triton: Path | None, options: dict[str, Any], *, json: bool
) -> None:
    """Converts an exported file, or adds it to a model repository."""
    runtime = runtime_of(target)
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ValueError(
            f"{', '.join(given)}: not for {source}, which is exported already; export its model by "
            "name"
        )
    others = [one for one in RUNTIMES.values() if one.written_from == "onnx" and one is not ONNX]
    if runtime_of(source) is not ONNX or (triton is None and runtime not in others):
        raise ValueError(
            f"{source} is exported already; an {ONNX.suffix} file can be converted to "
            f"{', '.join(one.suffix for one in others)} or added with --triton; for other formats "
            "export its model by name"
        )
    runtime.need_writer()
    if triton is not None:
        from fbnetv3.deploy.model_repository import write_repository
        from fbnetv3.deploy.runtimes import read_artefact

        target = write_repository(source, triton).model_path
        parity = dict(read_artefact(target).parity)
    else:
        parity = runtime.file.convert(source, target).to_dict()
    _print_export(target, runtime.parts(target), parity, json=json)


def _state_license(model: FBNetV3, license: str, name: str) -> None:
    """Gives a model's own weights a licence; published ones keep theirs."""
    from fbnetv3.hub.license_policy import own_license
    from fbnetv3.hub.pretrained_cfg import license_of, weights_of

    known = license_of(model)
    if weights_of(model) is not None and license.lower() != known.lower():
        raise ValueError(
            f"license is {license!r}, but {name} is licensed {known} by its authors; --license is "
            "for your own weights"
        )
    stated = own_license(license, known=known, source=name)
    model.pretrained_cfg = model.default_cfg = {**model.pretrained_cfg, "license": stated}


def _check_options(output: Path, refused: dict[str, bool]) -> None:
    given = [name for name, is_refused in refused.items() if is_refused]
    if given:
        raise ValueError(
            f"{', '.join(given)}: not for a {output.suffix} file, which takes float32 images of a "
            "fixed size; leave it out"
        )


def _print_export(
    output: Path,
    parts: Sequence[Path],
    parity: dict[str, Any],
    *,
    json: bool,
    coverage: Sequence[Any] = (),
) -> None:
    num_bytes = sum(part.stat().st_size for part in parts)
    if json:
        print_json(
            {
                "path": output,
                "num_bytes": num_bytes,
                "sha256": {str(part.relative_to(output.parent)): sha256_of(part) for part in parts},
                "parity": parity,
                "targets": list(coverage),
            }
        )
        return
    size = f"{output}: {num_bytes / 1e6:.1f} MB"
    if not parity:
        print(f"{size}, quantized")  # compared on the images of its quantization
        return
    print(
        f"{size}; largest difference of a logit {parity['max_error_of_std']:.0e} of their spread, "
        f"same top-1 on {100 * parity['top1_agreement']:.0f} % of {parity['num_inputs']} inputs"
    )
    only_on = runtime_of(output).only_on
    if only_on not in ("", sys.platform):
        note(f"{output} was checked by its operators as torch computes them; only a Mac runs it")
    if parity["evidence"] != "weights":
        note(_EVIDENCE[parity["evidence"]])
    if coverage:
        print_table(
            ("target", "operators", "taken", "pieces", "left", "suitable", "notes"),
            [
                (
                    c.target,
                    c.num_nodes,
                    c.num_taken,
                    c.num_partitions,
                    ", ".join(c.left),
                    c.verdict,
                    "; ".join(c.notes),
                )
                for c in coverage
            ],
        )


def created(
    model: str, pretrained: bool | None, checkpoint: Path | None, num_classes: int | None = None
) -> FBNetV3:
    """Returns the network that a command names; None loads the trained weights if there are any.

    Of a bare name it says first which weights these are.
    """
    if num_classes is not None and not 1 <= num_classes <= _MAX_CLASSES:
        raise ValueError(
            f"num_classes is {num_classes}; expected a whole number from 1 to {_MAX_CLASSES}"
        )
    from fbnetv3.hub.create import create
    from fbnetv3.hub.license_policy import terms
    from fbnetv3.hub.pretrained_cfg import weights_of
    from fbnetv3.hub.registry import FOLDERS, get_weights
    from fbnetv3.models.model import FBNetV3

    if pretrained is None:
        try:
            pretrained = checkpoint is None and (
                model.startswith(FOLDERS) or get_weights(model) is not None
            )
        except ValueError:
            pretrained = False  # a table's path, or a name without weights
        fresh = f"{model}: no weights belong to this name; they are fresh"
    else:
        fresh = f"{model}: its weights are fresh, not trained"
    if pretrained and not model.startswith(FOLDERS) and (used := get_weights(model)).name != model:
        note(f"{model}: with the weights {used.name}, {terms(used.license)}")
    made = create(model, pretrained=pretrained, checkpoint=checkpoint, num_classes=num_classes)
    assert isinstance(made, FBNetV3)
    if not pretrained and checkpoint is None:  # once the name is known to be one
        note(fresh)
    weights = weights_of(made)
    if num_classes is not None and weights is not None and weights.num_classes != num_classes:
        classes = counted(num_classes, "class", "classes")
        note(f"{model}: the classifier of {classes} is new, not trained")
    return made
