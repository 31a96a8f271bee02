"""Options of the tools that our users come from, and what they are called here.

They are those of the scripts of timm and torchvision, of Ultralytics, of the trainer of Hugging
Face and of Optuna.
"""

from __future__ import annotations

from collections.abc import Collection

# Ours -> theirs.
_THEIRS = {
    "--image-size": (
        "--crop", "--eval-crop-size", "--img", "--img-size", "--imgsz", "--input-size",
        "--resolution", "--size", "--train-crop-size", "--val-crop-size",
    ),
    "--size": ("--image-size", "--img", "--img-size", "--imgsz", "--min-size"),
    "--lr": ("--learning-rate", "--lr0"),
    "--optimizer": ("--opt", "--optim"),
    "--workers": (
        "-j", "--dataloader-num-workers", "--jobs", "--n-jobs", "--nw", "--num-workers",
    ),
    "--batch-size": (
        "-b", "--batch", "--bs", "--per-device-train-batch-size",
        "--per-device-eval-batch-size", "--train-batch-size",
    ),
    "--epochs": ("-e", "--max-epochs", "--n-epochs", "--num-epochs", "--num-train-epochs"),
    "--out": ("-o", "--exp-dir", "--log-dir", "--output", "--output-dir", "--save-dir"),
    "--output": ("--out", "--output-dir", "--results-file", "--save-dir"),
    "--data": ("--data-dir", "--data-path", "--dataset", "--root", "--train-dir"),
    "--checkpoint": ("--ckpt", "--initial-checkpoint", "--resume-from-checkpoint", "--weights"),
    "--model": (
        "-a", "-m", "--arch", "--model-name", "--model-name-or-path", "--model-path", "--weights",
    ),
    "--precision": ("--amp", "--bf16", "--fp16", "--half", "--mixed-precision"),
    "--clip-norm": ("--clip-grad", "--clip-grad-norm", "--gradient-clip-val", "--max-grad-norm"),
    "--accumulate": (
        "--accumulate-grad-batches", "--grad-accum-steps", "--gradient-accumulation-steps",
    ),
    "--compile": ("--torch-compile", "--torchcompile"),
    "--log": ("--log-wandb", "--report-to", "--use-wandb", "--wandb"),
    "--patience": ("--early-stopping-patience",),
    "--from-scratch": ("--no-pretrained",),
    "--threads": ("--num-threads",),
    "--threshold": (
        "--conf", "--conf-thres", "--conf-threshold", "--confidence-threshold", "--pred-score-thr",
        "--score-thr", "--score-threshold",
    ),
    "--top-k": ("--topk",),
    "--trainings": ("--max-evals", "--n-trials", "--num-samples", "--num-trials", "--trials"),
    "--time": ("--time-budget", "--time-budget-s", "--time-limit"),
    "--seed": ("--random-seed", "--random-state"),
    # Fields of a recipe.
    "--set drop_path=": ("--drop-path",),
    "--set dropout=": ("--drop", "--dropout"),
    "--set label_smoothing=": ("--label-smoothing", "--smoothing"),
    "--set layer_decay=": ("--layer-decay",),
    "--set mixup=": ("--mixup", "--mixup-alpha"),
    "--set momentum=": ("--momentum",),
    "--set schedule=": ("--lr-scheduler", "--lr-scheduler-type", "--sched", "--scheduler"),
    "--set warmup_epochs=": ("--lr-warmup-epochs", "--warmup-epochs"),
    "--set weight_decay=": ("--wd", "--weight-decay"),
}  # fmt: skip
# Our arguments without an option -> their options.
ARGUMENTS = {"images": ("--input", "--source")}


def own_option(word: str, known: Collection[str]) -> str | None:
    """Returns what another tool's option is called among a command's own, None if that is unknown.

    Args:
        word: the option, such as "--imgsz" or "--weight_decay".
        known: the command's options.
    """
    plain = word.replace("_", "-")
    if word in known or not word.startswith("-"):
        return None
    if plain in known:
        return plain
    fitting = (own for own, theirs in _THEIRS.items() if plain in theirs)
    return next((own for own in fitting if own.split()[0] in known), None)
