"""Training with Detectron2: EMA of the weights, and a trainer that evaluates the EMA model.

The cosine schedule is Detectron2's own: `SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"`, with
`SOLVER.RESCALE_INTERVAL = True` for a cosine that starts where the warm-up ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fbnetv3._internal.optional import missing

try:
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.engine import DefaultTrainer, HookBase
    from detectron2.engine.hooks import EvalHook
    from detectron2.evaluation import COCOEvaluator
except ImportError as error:
    raise missing("detectron2", error) from error

__all__ = [
    "EMAHook",
    "Trainer",
]


class EMAHook(HookBase):  # type: ignore[misc]  # detectron2 has no types
    """Keeps an exponential moving average (EMA) of a model, updated every step.

    Batch-norm statistics are averaged with the weights, counters are copied. The average is saved
    in the trainer's checkpoints and resumed from them. Register it before the checkpointer.

    Args:
        model: the model in training, wrapped in DistributedDataParallel or not.
        decay: EMA decay; the paper uses 0.9998.

    Raises:
        ValueError: `decay` is not between 0 and 1.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9998) -> None:
        from timm.utils import ModelEmaV3  # type: ignore[attr-defined]  # timm re-exports

        if not 0.0 < decay < 1.0:
            raise ValueError(f"decay is {decay!r}; expected a number between 0 and 1")
        self._model = _unwrapped(model)
        self._average = ModelEmaV3(self._model, decay=decay)

    @property
    def model(self) -> nn.Module:
        """The EMA model, in evaluation mode."""
        averaged: nn.Module = self._average.module
        return averaged

    def before_train(self) -> None:
        """Starts from the loaded weights, unless an average was resumed."""
        if self.trainer.iter == 0:
            self._average.set(self._model)  # type: ignore[no-untyped-call]  # timm

    def after_step(self) -> None:
        """Updates the average."""
        self._average.update(self._model)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the tensors of the average, for the checkpoint."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores the average from a checkpoint."""
        self.model.load_state_dict(state)


class Trainer(DefaultTrainer):  # type: ignore[misc]  # detectron2 has no types
    """Detectron2's trainer with COCO evaluation and `MODEL.FBNETV3.EMA_DECAY`.

    With EMA, the EMA model is evaluated and saved as `ema/model.pth` in the output directory, a
    file for `MODEL.WEIGHTS`.
    """

    def build_hooks(self) -> list[Any]:
        """Returns Detectron2's hooks, and the EMA hook if a decay is set."""
        hooks = super().build_hooks()
        decay = self.cfg.MODEL.FBNETV3.EMA_DECAY
        if not decay:
            return list(hooks)
        self.ema = EMAHook(self.model, decay)

        def evaluate() -> Any:
            # In a separate folder, because saving also changes the folder's `last_checkpoint`.
            folder = Path(self.cfg.OUTPUT_DIR) / "ema"
            folder.mkdir(parents=True, exist_ok=True)
            DetectionCheckpointer(self.ema.model, str(folder)).save("model")
            self._last_eval_results = self.test(self.cfg, self.ema.model)
            return self._last_eval_results

        kept = [hook for hook in hooks if not isinstance(hook, EvalHook)]
        # EMA runs after the timer and before the checkpointer, evaluation before the writer.
        evaluation = EvalHook(self.cfg.TEST.EVAL_PERIOD, evaluate)
        return [kept[0], self.ema, *kept[1:-1], evaluation, kept[-1]]

    @classmethod
    def build_evaluator(cls, cfg: Any, dataset_name: str) -> Any:
        """Returns the evaluator of a data set in COCO format."""
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR)


def _unwrapped(model: nn.Module) -> nn.Module:
    if isinstance(model, DistributedDataParallel):
        inner: nn.Module = model.module
        return inner
    return model
