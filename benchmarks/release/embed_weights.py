"""Writes trained weights as a file small enough for `fbnetv3_zoo/data/`.

    python -m benchmarks.release.embed_weights runs/nano/model.safetensors \
        fbnetv3_zoo/data/fbnetv3_nano.cifar10.safetensors

Convolutions and the classifier become float16; biases and batch-norms stay float32. Loading makes
everything float32 again. Prints the size and the SHA-256 that the record in `weights.py` needs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fbnetv3._internal.files import sha256_of
from fbnetv3.checkpoints.checkpoint import read_tensors, write_tensors


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors with convolutions and the classifier in float16."""
    return {k: v.to(torch.float16) if v.ndim > 1 else v for k, v in state.items()}


def main() -> None:
    """Reads one file and writes the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    state = read_tensors(args.source)
    write_tensors(args.target, halved(state), {"format": "pt", "license": "Apache-2.0"})
    print(f"{args.target}: {args.target.stat().st_size:,} bytes, SHA-256 {sha256_of(args.target)}")


if __name__ == "__main__":
    main()
