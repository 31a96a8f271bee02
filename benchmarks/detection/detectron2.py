r"""Trains and scores Detectron2's detectors with our trunk on folders in COCO's format.

    python -m benchmarks.detection.detectron2 train FOLDER --config faster_rcnn_fbnetv3_e_c4 \
        --out runs/c4_e SOLVER.IMS_PER_BATCH 16 SOLVER.BASE_LR 0.08
    python -m benchmarks.detection.detectron2 eval FOLDER --config faster_rcnn_fbnetv3_e_c4 \
        --out runs/c4_e

A folder holds `annotations.json` and `images/`, see `torchvision.py`. Configurations are those of
`fbnetv3.detectron2_config`; pairs of key and value behind them change single settings. Averaged
weights and the cosine are the configuration's own. Training goes on from the last checkpoint in
`--out`; `eval` scores the averaged weights there, or the last ones of a run without an average.
Needs a checkout of Detectron2 on the Python path.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import launch

from benchmarks.records import write
from fbnetv3.detectron2_config import CONFIGS, NMS_READINGS, PAPER_NMS, get_config
from fbnetv3.detectron2_hooks import Trainer
from fbnetv3.integrations.coco_folder import CocoFolder
from fbnetv3.integrations.detection_layouts import ANNOTATIONS, IMAGES


def configure(options: argparse.Namespace) -> Any:
    """Returns the configuration with the folder as training and test set."""
    name = str(options.folder.resolve())
    if name not in DatasetCatalog:
        register_coco_instances(name, {}, f"{name}/{ANNOTATIONS}", f"{name}/{IMAGES}")
    cfg = get_config(options.config, nms=options.nms)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    num_classes = CocoFolder(name).num_classes - 1
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = num_classes
    if not torch.cuda.is_available():
        # Synchronised batch-norm trains on GPUs only; on one process both are the same function.
        cfg.MODEL.DEVICE, cfg.MODEL.FBNETV3.NORM = "cpu", "BN"
        cfg.MODEL.FPN.NORM = cfg.MODEL.FPN.NORM.replace("SyncBN", "BN")
    cfg.merge_from_list(options.settings)
    cfg.OUTPUT_DIR = str(options.out)
    cfg.freeze()
    return cfg


def train(options: argparse.Namespace) -> None:
    """Trains, or goes on with what is in the folder."""
    cfg = configure(options)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "config.yaml").write_text(cfg.dump())
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()


def evaluate(options: argparse.Namespace) -> None:
    """Scores the averaged weights and writes the scores beside them."""
    cfg = configure(options)
    model = Trainer.build_model(cfg)
    path = "ema/model.pth" if cfg.MODEL.FBNETV3.EMA_DECAY else "model_final.pth"
    DetectionCheckpointer(model).load(str(options.out / path))
    scores = {task: dict(found) for task, found in Trainer.test(cfg, model).items()}
    write(options.out / "scores.json", {"folder": str(options.folder), "percent": scores})


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses and runs a command, in as many processes as asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("train", "eval"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", choices=CONFIGS, required=True)
    parser.add_argument("--nms", choices=NMS_READINGS, default=PAPER_NMS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num-gpus", type=int, default=1)
    parser.add_argument("settings", nargs="*", default=[], help="KEY VALUE ...")
    options = parser.parse_intermixed_args(arguments)
    command = {"train": train, "eval": evaluate}[options.command]
    launch(command, options.num_gpus, dist_url="auto", args=(options,))


if __name__ == "__main__":
    main()
