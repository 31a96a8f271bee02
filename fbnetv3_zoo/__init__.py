"""FBNetV3-A..G exactly as published, ready to deploy, and the search that found them.

    import fbnetv3
    model = fbnetv3.create("fbnetv3_e", pretrained=True)

Names are looked up when they are first used, so that importing the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._version import __version__ as __version__
    from .arch import Arch as Arch
    from .arch import Row as Row
    from .classify import Classifier as Classifier
    from .classify import Prediction as Prediction
    from .counts import count as count
    from .flop_count import flops as flops
    from .images import list_images as list_images
    from .images import open_image as open_image
    from .inference import optimize as optimize
    from .labels import class_names as class_names
    from .model import FBNetV3 as FBNetV3
    from .model import build as build
    from .onnx_model import OnnxClassifier as OnnxClassifier
    from .preprocess import Preprocess as Preprocess
    from .pretrained import from_pretrained as from_pretrained
    from .pretrained import push_to_hub as push_to_hub
    from .pretrained import save_pretrained as save_pretrained
    from .registry import create as create
    from .registry import find as find
    from .registry import get_arch as get_arch
    from .registry import get_weights as get_weights
    from .registry import list_models as list_models
    from .registry import list_weights as list_weights
    from .registry import register as register
    from .timm_entrypoints import register_timm as register_timm
    from .weights import Weights as Weights

# Public name -> the file that has it; sorted.
_HOMES = {
    "Arch": "arch",
    "Classifier": "classify",
    "FBNetV3": "model",
    "OnnxClassifier": "onnx_model",
    "Prediction": "classify",
    "Preprocess": "preprocess",
    "Row": "arch",
    "Weights": "weights",
    "__version__": "_version",
    "build": "model",
    "class_names": "labels",
    "count": "counts",
    "create": "registry",
    "find": "registry",
    "flops": "flop_count",
    "from_pretrained": "pretrained",
    "get_arch": "registry",
    "get_weights": "registry",
    "list_images": "images",
    "list_models": "registry",
    "list_weights": "registry",
    "open_image": "images",
    "optimize": "inference",
    "push_to_hub": "pretrained",
    "register": "registry",
    "register_timm": "timm_entrypoints",
    "save_pretrained": "pretrained",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        from difflib import get_close_matches

        near = get_close_matches(name, _HOMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
