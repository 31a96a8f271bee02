"""Models saved as a folder or hub repository: config.json and model.safetensors, as timm does.

`config.json` has timm's fields and an entry `fbnetv3` with the architecture, so that
`from_pretrained` can load any model. The rest depends on what timm can build:

* The architecture equals timm's fbnetv3_b, d or g (D, G, and B with same padding): saved as
  "fbnetv3_b", ... with tensors in timm's layout, which timm loads without this package. The stem's
  bias is folded into the running mean, so that logits agree up to rounding.
* Other published architectures: saved as "meta_fbnetv3_a" to "g" in our layout. timm loads them
  after `import fbnetv3.timm_models`.
* All others: saved as "fbnetv3" with the architecture among `model_args`. timm loads them after
  `import fbnetv3.timm_models`, too.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fbnetv3._internal.errors import FetchError
from fbnetv3._internal.files import write_atomically
from fbnetv3._internal.json_record import read_json
from fbnetv3.arch.arch import Arch
from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.checkpoint import read_tensors, stated_license, write_tensors
from fbnetv3.checkpoints.convert import Dialect, detect_dialect, from_fbnetv3, to_fbnetv3
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.models.model import FBNetV3, build, unwrapped

from .cache import is_offline
from .confidence import Confidence
from .hub_repo import download_hub_file, find_hub_file
from .license_policy import check_terms, is_commercial, stated_anew
from .loading import STEM, build_from_state, stored_classes
from .pretrained_cfg import given_name, thresholds_of
from .weights import WEIGHTS, HubFile

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = "fbnetv3-model/1"
CONFIG, WEIGHTS_FILE = "config.json", "model.safetensors"
# What Hugging Face and timm wrote until 2023.
_PICKLED_FILE = "pytorch_model.bin"
# The name of all architectures without one of their own.
ANY = "fbnetv3"
_TIMM_NAMES = ("fbnetv3_b", "fbnetv3_d", "fbnetv3_g")
# The origin of the loaded weights does not apply to the saved ones.
_SOURCE_FIELDS = frozenset(
    {"architecture", "file", "hf_hub_filename", "hf_hub_id", "source", "state_dict", "url"}
    | {"name", "thresholds"}  # timm's record of weights has no such field
)
_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Published:
    """The content of a folder or repository.

    Attributes:
        source: where it was read from, for error messages.
        arch: the architecture.
        state: name -> tensor in our layout.
        model_args: arguments that the model was built with.
        pretrained_cfg: timm's description of the weights.
        license: SPDX name in lower case, "" if there is none.
    """

    source: str
    arch: Arch
    state: dict[str, Tensor]
    model_args: dict[str, Any]
    pretrained_cfg: dict[str, Any]
    license: str


def save_pretrained(
    model: FBNetV3,
    folder: str | Path,
    *,
    license: str | None = None,
    labels: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    thresholds: Sequence[float] | None = None,
    confidence: Confidence | None = None,
) -> Path:
    """Saves a model in a folder for `from_pretrained`, and for timm if it can build the model.

    Args:
        model: the model to save, also as `torch.compile` or DataParallel wraps it.
        folder: created if missing; files of the same names are replaced.
        license: SPDX name; None keeps that of the loaded weights.
        labels: class names in the order of the logits.
        preprocess: preprocessing of images; None keeps that of the loaded weights.
        thresholds: score from which an image has each class, of a multi-label model; None keeps
            those of the loaded weights, () makes it single-label.
        confidence: temperature and threshold of the answers; None keeps those of a loaded folder.

    Returns:
        The folder.

    Raises:
        ValueError: the model's layers differ from its architecture, or the number of labels or
            thresholds from its classes, or the license allows what that of the loaded weights
            forbids.
    """
    model = unwrapped(model)
    if thresholds is None:
        thresholds = thresholds_of(model) or ()
    if len(thresholds) not in (0, model.num_classes):
        raise ValueError(f"there are {len(thresholds)} thresholds for {model.num_classes} classes")
    model_args = _model_args(model)
    _check_layers(model, model_args)
    if labels is not None and len(labels) != model.num_classes:
        raise ValueError(f"there are {len(labels)} labels for {model.num_classes} classes")
    architecture, dialect = _timm_name(model.arch)
    cfg = {
        key: value
        for key, value in model.pretrained_cfg.items()
        if key not in _SOURCE_FIELDS and value is not None
    }
    # Not a field of timm's.
    kept = cfg.pop("confidence", None)
    kept = kept if confidence is None else confidence.to_dict()
    if preprocess is not None:
        cfg |= {
            "input_size": (model.in_chans, preprocess.crop, preprocess.crop),
            "crop_pct": preprocess.crop_pct,
            "interpolation": preprocess.interpolation,
            "mean": preprocess.mean,
            "std": preprocess.std,
        }
    cfg |= {
        "num_classes": model.num_classes,
        "first_conv": "conv_stem" if dialect == "timm" else "stem.conv",
        "classifier": "classifier",
    }
    cfg["license"] = stated_anew(license, known=str(cfg.get("license") or "")).lower()
    config = {
        "architecture": architecture,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "global_pool": model.pool_type,
        **({"label_names": list(labels)} if labels is not None else {}),
        # Also without any: what transformers saves of a folder has null then, which timm refuses.
        "model_args": model_args,
        "pretrained_cfg": cfg,
        "fbnetv3": {
            "schema": SCHEMA,
            "arch": model.arch.to_dict(),
            "arch_sha256": model.arch.sha256,
            "dialect": dialect,
            "license": cfg.get("license", ""),
            **({"thresholds": list(thresholds)} if thresholds else {}),
            **({"confidence": kept} if kept else {}),
        },
    }
    if architecture == ANY:
        # timm passes these to the entry point, which knows no other architecture.
        config["model_args"] = {**model_args, "arch": model.arch.to_dict()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = from_fbnetv3(model.state_dict(), model.arch, dialect)
    metadata = {"format": "pt", "fbnetv3.arch_sha256": model.arch.sha256}
    if cfg.get("license"):
        metadata["license"] = cfg["license"]
    write_tensors(folder / WEIGHTS_FILE, tensors, metadata)
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    write_atomically(folder / "README.md", _card(config).encode())
    return folder


def write_confidence(folder: str | Path, confidence: Confidence) -> None:
    """Puts the temperature and the threshold of a saved model's answers into its folder.

    Raises:
        FileNotFoundError: the folder has no saved model.
        ValueError: `save_pretrained` did not write the folder.
        OSError: the folder cannot be written; the record before is whole.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; expected a folder that contains {CONFIG}")
    config = read_json(path.read_bytes(), str(path))
    if not isinstance(config, dict) or not isinstance(config.get("fbnetv3"), dict):
        raise ValueError(f"{path} has no entry 'fbnetv3'; expected a folder of save_pretrained")
    config["fbnetv3"]["confidence"] = confidence.to_dict()
    write_atomically(path, (json.dumps(config, indent=2) + "\n").encode())


def read_pretrained(
    source: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    offline: bool | None = None,
) -> Published:
    """Returns the content of a folder or repository, with tensors in our layout.

    Args:
        source: a folder (also "local-dir:PATH"), or "ORG/REPO" or "ORG/REPO@REVISION" on the
            Hugging Face hub (also with the prefix "hf-hub:").
        revision: branch, tag or commit of a repository; default "main".
        cache_dir: cache folder; None is the hub's default.
        offline: do not use the network; None reads HF_HUB_OFFLINE or FBNETV3_OFFLINE.

    Raises:
        FetchError: a file cannot be downloaded.
        FileNotFoundError: the folder lacks a file.
        ValueError: a file is damaged or not an FBNetV3.
    """
    text = str(source)
    local = Path(text.removeprefix("local-dir:"))
    if text.startswith("local-dir:") or local.is_dir():
        config_path, weights_path = local / CONFIG, local / WEIGHTS_FILE
        if not weights_path.is_file() and (local / _PICKLED_FILE).is_file():
            weights_path = local / _PICKLED_FILE
        for path in (config_path, weights_path):
            if not path.is_file():
                stopped = "; if its training was stopped, finish it with the same command"
                raise FileNotFoundError(
                    f"no {path}; expected a folder that contains {path.name}"
                    + (stopped if local.is_dir() else "")
                )
    else:
        repo, _, at = re.sub(r"^hf[-_]hub:", "", text).partition("@")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
            known = text in WEIGHTS or text in ARCHS
            raise ValueError(
                f"{text!r} is neither a folder nor ORG/REPO on the hub; "
                + (f"use create({text!r}, pretrained=True)" if known else "check the spelling")
            )
        revision = revision or at or "main"
        config_path, revision = _hub_file(repo, CONFIG, revision, cache_dir, offline)
        weights_path, _ = _hub_file(repo, WEIGHTS_FILE, revision, cache_dir, offline)
    config = read_json(config_path.read_bytes(), str(config_path))
    arch = _arch_of(config, config_path)
    tensors = read_tensors(weights_path)
    cfg = dict(_mapping(config.get("pretrained_cfg")))
    license = str(_mapping(config.get("fbnetv3")).get("license") or cfg.get("license") or "")
    license = license or _recorded_license(text)
    # A copied file keeps its licence, whatever the folder that it was put into says.
    of_file = stated_license(weights_path)
    if of_file and not is_commercial(of_file):
        license = of_file
    if license:
        cfg["license"] = license
    thresholds = _mapping(config.get("fbnetv3")).get("thresholds")
    if isinstance(thresholds, list) and thresholds:
        cfg["thresholds"] = thresholds
    confidence = _mapping(config.get("fbnetv3")).get("confidence")
    if confidence is not None:
        cfg["confidence"] = Confidence.from_dict(confidence).to_dict()
    cfg["name"] = given_name(text)
    state = to_fbnetv3(tensors, arch, detect_dialect(tensors))
    return Published(
        source=text,
        arch=arch,
        state=state,
        model_args={
            "in_chans": state[STEM].shape[1],
            "num_classes": stored_classes(state),
            **{k: v for k, v in _mapping(config.get("model_args")).items() if k != "arch"},
        },
        # timm writes the class names outside its pretrained_cfg.
        pretrained_cfg={"label_names": config.get("label_names")}
        | cfg
        | {"first_conv": "stem.conv"}
        | {key: tuple(value) for key, value in cfg.items() if isinstance(value, list)},
        license=license,
    )


def from_pretrained(
    source: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    offline: bool | None = None,
    license: str | None = None,
    **kwargs: Any,
) -> FBNetV3:
    """Returns the model of a folder or repository, in evaluation mode.

    Reads models saved by `save_pretrained`, and FBNetV3 models saved by timm.

    Args:
        source: as in `read_pretrained`.
        revision: as in `read_pretrained`.
        cache_dir: as in `read_pretrained`.
        offline: as in `read_pretrained`.
        license: "commercial" refuses weights that forbid commercial use; None reads
            FBNETV3_LICENSE.
        **kwargs: arguments of `build`, which override the saved ones.

    Raises:
        ValueError: as in `read_pretrained`, or the licence is refused.
    """
    found = read_pretrained(source, revision=revision, cache_dir=cache_dir, offline=offline)
    check_terms(found.source, found.license, license)
    arguments = found.model_args | kwargs
    model = build_from_state(found.arch, found.state, source=found.source, **arguments)
    model.pretrained_cfg = model.default_cfg = found.pretrained_cfg | {
        "num_classes": model.num_classes
    }
    return model.eval()


def push_to_hub(
    model: FBNetV3,
    repo_id: str,
    *,
    license: str | None = None,
    labels: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Uploads a model to the Hugging Face hub, creating the repository if necessary.

    Args:
        model: the model to upload.
        repo_id: "ORG/REPO".
        license: as in `save_pretrained`.
        labels: as in `save_pretrained`.
        preprocess: as in `save_pretrained`.
        private: whether a new repository is private.
        revision: branch; None is the main branch.
        token: access token; None uses the stored one.
        endpoint: URL of the hub; None is the default of huggingface-hub.

    Returns:
        URL of the commit.

    Raises:
        ValueError: as in `save_pretrained`.
        huggingface_hub.errors.HfHubHTTPError: the hub rejects the upload.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint, token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, license=license, labels=labels, preprocess=preprocess)
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message="Add FBNetV3 model",
        )
    return commit.commit_url


def _model_args(model: FBNetV3) -> dict[str, Any]:
    """Returns the arguments of `build` that differ from its defaults."""
    found: dict[str, Any] = {"in_chans": model.in_chans, "global_pool": model.pool_type}
    if isinstance(model.stem.bn, nn.BatchNorm2d):
        found |= {"bn_eps": model.stem.bn.eps, "bn_momentum": model.stem.bn.momentum}
    defaults = {"in_chans": 3, "global_pool": "avg", "bn_eps": 1e-5, "bn_momentum": 0.1}
    return {key: value for key, value in found.items() if value != defaults[key]}


def _check_layers(model: FBNetV3, model_args: Mapping[str, Any]) -> None:
    """Refuses models with replaced, pruned or dilated layers, which cannot be saved."""
    plain = build(model.arch, device="meta", num_classes=model.num_classes, **model_args)
    for (name, own), expected in zip(model.named_children(), plain.children(), strict=True):
        if _shape(own) != _shape(expected) and name == "classifier":
            raise ValueError(
                f"the classifier is not the linear one for {model.num_classes} classes; expected "
                "that of model.reset_classifier(NUM_CLASSES), which also counts them. Set its "
                "weight and bias, or save the model's state_dict with safetensors instead"
            )
        if _shape(own) != _shape(expected):
            raise ValueError(
                f"the layers of {name!r} are not those of its architecture; expected a model "
                "without norm_layer, act_layer, output_stride or pruning. Save its state_dict "
                "with safetensors instead"
            )


def _shape(module: nn.Module) -> str:
    # Stochastic depth matters only during training.
    return re.sub(r"DropPath\(rate=[\d.]+\)", "Identity()", repr(module))


def _timm_name(arch: Arch) -> tuple[str, Dialect]:
    """Returns the name of the architecture in timm, and the layout that timm expects."""

    def equals(published: Arch) -> bool:
        # Compared at the published resolution, which may be too low for `arch`.
        if published.resolution < arch.min_side:
            return False
        same_resolution = dataclasses.replace(arch, resolution=published.resolution)
        return same_resolution.sha256 == published.sha256

    for name in _TIMM_NAMES:
        if equals(ARCHS[name].same_padding()):
            return name, "timm"
    names = [name for name, published in ARCHS.items() if equals(published)]
    # A and B differ in their resolution only.
    names.sort(key=lambda name: ARCHS[name].resolution != arch.resolution)
    if not names:
        return ANY, "fbnetv3"
    has_weights = f"{names[0]}.meta_in1k" in WEIGHTS
    return f"meta_{names[0]}" if has_weights else names[0], "fbnetv3"


def _arch_of(config: Any, path: Path) -> Arch:
    entry = _mapping(_mapping(config).get("fbnetv3"))
    if "arch" in entry:
        return Arch.from_dict(entry["arch"])
    name = _mapping(config).get("architecture")
    if name in _TIMM_NAMES:
        return ARCHS[name].same_padding()
    plain = name.removeprefix("meta_") if isinstance(name, str) else None
    if plain not in ARCHS:
        raise ValueError(
            f"{path} has architecture {name!r} and no entry 'fbnetv3'; expected an FBNetV3, such "
            "as 'fbnetv3_b'"
        )
    return ARCHS[plain]


def _recorded_license(source: str) -> str:
    """Returns the licence of a repository that our records know, "" of others."""
    repo = re.sub(r"^hf[-_]hub:", "", source).partition("@")[0]
    for weights in WEIGHTS.values():
        if isinstance(weights.source, HubFile) and weights.source.repo == repo:
            return weights.license.lower()
    return ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _hub_file(
    repo: str, filename: str, revision: str, cache_dir: str | Path | None, offline: bool | None
) -> tuple[Path, str]:
    source = HubFile(repo=repo, filename=filename, revision=revision)
    if is_offline(offline):
        found = find_hub_file(source, revision, cache_dir)
        if found is None:
            raise FetchError(
                f"offline, and {filename} of {repo} is not on this machine; download the "
                "repository's files into a folder and give its path"
            )
        return found, revision
    downloaded = download_hub_file(source, revision, cache_dir, timeout_s=_TIMEOUT_S)
    return downloaded.path, downloaded.commit


def _card(config: Mapping[str, Any]) -> str:
    """Returns the README of a saved model, with the metadata that the hub reads."""
    license = config["pretrained_cfg"].get("license")
    by_timm = config["fbnetv3"]["dialect"] == "timm"
    library = "timm" if by_timm else "fbnetv3"
    head = f"pipeline_tag: image-classification\nlibrary_name: {library}\n"
    if license:
        head += f"license: {license}\n"
    use = "fbnetv3.from_pretrained('ORG/REPO')\n"
    if by_timm:
        use += "timm.create_model('hf-hub:ORG/REPO', pretrained=True)\n"
    return (
        f"---\n{head}tags:\n- image-classification\n- fbnetv3\n---\n\n"
        f"# {config['architecture']}\n\n"
        f"An FBNetV3 with {config['num_classes']} classes.\n\n```python\n{use}```\n"
    )
