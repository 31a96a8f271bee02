"""Optional libraries, and the command that installs each."""

from __future__ import annotations

import importlib

# Library -> the arguments of `pip install`; extras pin versions that are known to work.
INSTALLS = {
    "ai_edge_litert": '"fbnetv3-zoo[litert]"',
    "ai_edge_quantizer": '"fbnetv3-zoo[litert]"',
    "coremltools": '"fbnetv3-zoo[coreml]"',
    # Its trainer writes to tensorboard after its first steps; pkg_resources left setuptools at 82.
    "detectron2": "cloudpickle hydra-core iopath omegaconf pycocotools tensorboard "
    '"setuptools<82", then put a checkout of its repository, which has no release, on PYTHONPATH',
    "executorch": '"fbnetv3-zoo[executorch]"',
    "matplotlib": "matplotlib",
    "mlflow": '"fbnetv3-zoo[mlflow]"',
    "nncf": '"fbnetv3-zoo[openvino]"',
    "onnxruntime": "onnxruntime",
    "openvino": '"fbnetv3-zoo[openvino]"',
    "optuna": '"fbnetv3-zoo[optuna]"',
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "pycocotools": '"fbnetv3-zoo[detection]"',
    "ray": '"fbnetv3-zoo[ray]"',
    "tensorboard": '"fbnetv3-zoo[tensorboard]"',
    "wandb": '"fbnetv3-zoo[wandb]"',
}


def missing(library: str, error: ImportError) -> ImportError:
    """Returns the error to raise when a library cannot be imported."""
    what = INSTALLS.get(library, library)
    return ImportError(
        f"this needs {library}, which cannot be imported ({error}): pip install {what}"
    )


def need(library: str) -> None:
    """Imports a library, to report its absence before any work is done.

    Raises:
        ImportError: the library is missing or broken.
    """
    try:
        importlib.import_module(library)
    except ImportError as error:
        raise missing(library, error) from error
