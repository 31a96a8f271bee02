"""FBNetV3-A..G exactly as published, ready to deploy, and the search that found them.

    import fbnetv3
    model = fbnetv3.create("fbnetv3_e", pretrained=True)

Names are looked up when they are first used, so that importing the package costs next to nothing.
"""

from typing import TYPE_CHECKING

from ._internal.lazy import lazy_names

if TYPE_CHECKING:
    from ._internal.errors import FBNetV3Error as FBNetV3Error
    from ._internal.errors import FetchError as FetchError
    from ._version import __version__ as __version__
    from .arch.arch import Arch as Arch
    from .arch.arch import Row as Row
    from .arch.counts import count as count
    from .deploy.classify import Classifier as Classifier
    from .deploy.classify import Prediction as Prediction
    from .deploy.classify import load as load
    from .deploy.onnx_model import OnnxClassifier as OnnxClassifier
    from .hub.create import create as create
    from .hub.pretrained import from_pretrained as from_pretrained
    from .hub.pretrained import push_to_hub as push_to_hub
    from .hub.pretrained import save_pretrained as save_pretrained
    from .hub.registry import find as find
    from .hub.registry import get_arch as get_arch
    from .hub.registry import get_weights as get_weights
    from .hub.registry import list_models as list_models
    from .hub.registry import list_weights as list_weights
    from .hub.registry import register as register
    from .hub.weights import Weights as Weights
    from .images.folders import list_images as list_images
    from .images.labels import class_names as class_names
    from .images.preprocess import Preprocess as Preprocess
    from .images.reader import open_image as open_image
    from .integrations.timm_entrypoints import register_timm as register_timm
    from .measure.flop_count import flops as flops
    from .models.inference import optimize as optimize
    from .models.model import FBNetV3 as FBNetV3
    from .models.model import build as build

# Public name -> the file that has it; sorted.
_HOMES = {
    "Arch": "arch.arch",
    "Classifier": "deploy.classify",
    "FBNetV3": "models.model",
    "FBNetV3Error": "_internal.errors",
    "FetchError": "_internal.errors",
    "OnnxClassifier": "deploy.onnx_model",
    "Prediction": "deploy.classify",
    "Preprocess": "images.preprocess",
    "Row": "arch.arch",
    "Weights": "hub.weights",
    "__version__": "_version",
    "build": "models.model",
    "class_names": "images.labels",
    "count": "arch.counts",
    "create": "hub.create",
    "find": "hub.registry",
    "flops": "measure.flop_count",
    "from_pretrained": "hub.pretrained",
    "get_arch": "hub.registry",
    "get_weights": "hub.registry",
    "list_images": "images.folders",
    "list_models": "hub.registry",
    "list_weights": "hub.registry",
    "load": "deploy.classify",
    "open_image": "images.reader",
    "optimize": "models.inference",
    "push_to_hub": "hub.pretrained",
    "register": "hub.registry",
    "register_timm": "integrations.timm_entrypoints",
    "save_pretrained": "hub.pretrained",
}

__all__ = list(_HOMES)


# Names of timm, torchvision, transformers and Ultralytics -> what to use here.
_ELSEWHERE = {
    "create_model": "create(NAME)",
    "get_model": "create(NAME)",
    "fbnetv3_*": "create(NAME)",
    "FBNetV3_*_Weights": "create(NAME, pretrained=True), or get_weights(NAME)",
    "Auto*": "from_pretrained(REPO), or create(NAME, pretrained=True)",
    "pipeline": "Classifier(NAME)",
    "YOLO": "load(NAME)",
    "create_transform": "get_weights(NAME).preprocess",
    "resolve_data_config": "get_weights(NAME).preprocess",
    "is_model": "list_models(NAME)",
    "list_pretrained": "list_models(pretrained=True)",
    "summary": "flops(model)",
    "train": "the command `fbnetv3 train`, or fbnetv3.search.training.train",
    "evaluate": "the command `fbnetv3 eval`, or fbnetv3.search.training.evaluate",
    "export": "the command `fbnetv3 export`, or fbnetv3.deploy.export",
    "quantize": "the command `fbnetv3 quantize`, or fbnetv3.deploy.quantize",
    "benchmark": "the command `fbnetv3 latency`, or fbnetv3.measure.latency",
    "latency": "the command `fbnetv3 latency`, or fbnetv3.measure.latency",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES, _ELSEWHERE)
