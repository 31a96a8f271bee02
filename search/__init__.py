"""NARS, the joint search for a network and its training recipe (arXiv 2006.02049).

    from fbnetv3 import search
    space = search.Space("mlp", [search.Gene.grid("width", 16, 256, 16)])
    found = search.run(space, train, trainings=24, folder="runs/s")

Names are looked up when they are first used, so that importing the package costs next to nothing.
"""

from typing import TYPE_CHECKING

from fbnetv3._internal.lazy import lazy_names

if TYPE_CHECKING:
    from .api.found import Found as Found
    from .api.records import Asked as Asked
    from .api.records import Best as Best
    from .api.records import Finished as Finished
    from .api.records import FinishedRound as FinishedRound
    from .api.run import run as run
    from .api.study import Study as Study
    from .cost.cost import Costs as Costs
    from .cost.cost import costs as costs
    from .cost.latency_table import LatencyTable as LatencyTable
    from .cost.operator_timing import calibrate as calibrate
    from .cost.operator_timing import measure_operators as measure_operators
    from .cost.operators import operators_of_space as operators_of_space
    from .cost.scale import Scaling as Scaling
    from .cost.scale import scale as scale
    from .cost.scale import scale_to as scale_to
    from .data.datasets import cifar_arch as cifar_arch
    from .data.datasets import open_images as open_images
    from .data.datasets import open_train_val as open_train_val
    from .data.image_set import ImageSet as ImageSet
    from .execution.coordinator import Policy as Policy
    from .execution.engine import Engine as Engine
    from .execution.engine import InlineEngine as InlineEngine
    from .execution.engine import LocalEngine as LocalEngine
    from .execution.objective import Objective as Objective
    from .execution.objective import TableObjective as TableObjective
    from .execution.objective import load_table as load_table
    from .execution.ray_engine import RayEngine as RayEngine
    from .execution.spec import load_objective as load_objective
    from .execution.train_objective import TrainObjective as TrainObjective
    from .nars.answers import Answer as Answer
    from .nars.answers import Contender as Contender
    from .nars.answers import copy_answers as copy_answers
    from .nars.config import SearchConfig as SearchConfig
    from .nars.evolution import EvolutionSettings as EvolutionSettings
    from .nars.evolution import Evolved as Evolved
    from .nars.evolution import evolve as evolve
    from .nars.export import import_labels as import_labels
    from .nars.export import to_optuna as to_optuna
    from .nars.export import write_csv as write_csv
    from .nars.limit import Limit as Limit
    from .nars.problem import Problem as Problem
    from .nars.problem import problem_of as problem_of
    from .nars.regret import bench_table as bench_table
    from .nars.run import create_search as create_search
    from .nars.run import evolve_for as evolve_for
    from .nars.run import open_predictor as open_predictor
    from .nars.run import run_search as run_search
    from .nars.run import search_problem as search_problem
    from .nars.status import status_of as status_of
    from .predictors.protocol import Prediction as Prediction
    from .predictors.protocol import Predictor as Predictor
    from .predictors.protocol import Pretraining as Pretraining
    from .predictors.quality import Quality as Quality
    from .predictors.quality import cross_validate as cross_validate
    from .predictors.registry import load_predictor as load_predictor
    from .predictors.registry import make_predictor as make_predictor
    from .predictors.registry import register_predictor as register_predictor
    from .predictors.registry import save_predictor as save_predictor
    from .predictors.targets import Scale as Scale
    from .report.page import write_report as write_report
    from .space.gene import Gene as Gene
    from .space.layout import Layout as Layout
    from .space.space import Space as Space
    from .space.spaces import cifar_joint as cifar_joint
    from .space.spaces import get_space as get_space
    from .space.spaces import open_space as open_space
    from .space.spaces import paper_joint as paper_joint
    from .space.spaces import recipe_only as recipe_only
    from .storage.store import Store as Store
    from .storage.trials import Trial as Trial
    from .training.batches import default_preprocess as default_preprocess
    from .training.config import Hardware as Hardware
    from .training.config import TrainConfig as TrainConfig
    from .training.distill import cached_teacher as cached_teacher
    from .training.distill import open_teacher as open_teacher
    from .training.distill import two_step as two_step
    from .training.evaluate import Evaluation as Evaluation
    from .training.evaluate import evaluate as evaluate
    from .training.evaluate import wilson_pct as wilson_pct
    from .training.evaluate_multi_label import MultiLabelEvaluation as MultiLabelEvaluation
    from .training.evaluate_multi_label import evaluate_multi_label as evaluate_multi_label
    from .training.logbook import EpochLog as EpochLog
    from .training.networks import open_network as open_network
    from .training.networks import preprocess_for as preprocess_for
    from .training.presets import Preset as Preset
    from .training.presets import get_recipe as get_recipe
    from .training.recipe import Recipe as Recipe
    from .training.train import Trained as Trained
    from .training.train import train as train
    from .training.train import train_epochs as train_epochs

# Public name -> the file that has it; sorted.
_HOMES = {
    "Answer": "nars.answers",
    "Asked": "api.records",
    "Best": "api.records",
    "Contender": "nars.answers",
    "Costs": "cost.cost",
    "Engine": "execution.engine",
    "EpochLog": "training.logbook",
    "Evaluation": "training.evaluate",
    "EvolutionSettings": "nars.evolution",
    "Evolved": "nars.evolution",
    "Finished": "api.records",
    "FinishedRound": "api.records",
    "Found": "api.found",
    "Gene": "space.gene",
    "Hardware": "training.config",
    "ImageSet": "data.image_set",
    "InlineEngine": "execution.engine",
    "LatencyTable": "cost.latency_table",
    "Layout": "space.layout",
    "Limit": "nars.limit",
    "LocalEngine": "execution.engine",
    "MultiLabelEvaluation": "training.evaluate_multi_label",
    "Objective": "execution.objective",
    "Policy": "execution.coordinator",
    "Prediction": "predictors.protocol",
    "Predictor": "predictors.protocol",
    "Preset": "training.presets",
    "Pretraining": "predictors.protocol",
    "Problem": "nars.problem",
    "Quality": "predictors.quality",
    "RayEngine": "execution.ray_engine",
    "Recipe": "training.recipe",
    "Scale": "predictors.targets",
    "Scaling": "cost.scale",
    "SearchConfig": "nars.config",
    "Space": "space.space",
    "Store": "storage.store",
    "Study": "api.study",
    "TableObjective": "execution.objective",
    "TrainConfig": "training.config",
    "TrainObjective": "execution.train_objective",
    "Trained": "training.train",
    "Trial": "storage.trials",
    "bench_table": "nars.regret",
    "cached_teacher": "training.distill",
    "calibrate": "cost.operator_timing",
    "cifar_arch": "data.datasets",
    "cifar_joint": "space.spaces",
    "copy_answers": "nars.answers",
    "costs": "cost.cost",
    "create_search": "nars.run",
    "cross_validate": "predictors.quality",
    "default_preprocess": "training.batches",
    "evaluate": "training.evaluate",
    "evaluate_multi_label": "training.evaluate_multi_label",
    "evolve": "nars.evolution",
    "evolve_for": "nars.run",
    "get_recipe": "training.presets",
    "get_space": "space.spaces",
    "import_labels": "nars.export",
    "load_objective": "execution.spec",
    "load_predictor": "predictors.registry",
    "load_table": "execution.objective",
    "make_predictor": "predictors.registry",
    "measure_operators": "cost.operator_timing",
    "open_images": "data.datasets",
    "open_network": "training.networks",
    "open_predictor": "nars.run",
    "open_space": "space.spaces",
    "open_teacher": "training.distill",
    "open_train_val": "data.datasets",
    "operators_of_space": "cost.operators",
    "paper_joint": "space.spaces",
    "preprocess_for": "training.networks",
    "problem_of": "nars.problem",
    "recipe_only": "space.spaces",
    "register_predictor": "predictors.registry",
    "run": "api.run",
    "run_search": "nars.run",
    "save_predictor": "predictors.registry",
    "scale": "cost.scale",
    "scale_to": "cost.scale",
    "search_problem": "nars.run",
    "status_of": "nars.status",
    "to_optuna": "nars.export",
    "train": "training.train",
    "train_epochs": "training.train",
    "two_step": "training.distill",
    "wilson_pct": "training.evaluate",
    "write_csv": "nars.export",
    "write_report": "report.page",
}

__all__ = list(_HOMES)

# Names of Optuna, Ray Tune and scikit-optimize -> what to use here.
_GENES = (
    "genes: Gene('act', ('relu', 'gelu')), Gene.grid('width', 16, 256, 16), Gene.log('lr', 1e-4, 1)"
)
_RUN = "run(space, train, ...), or Study(space, ...) with ask and tell"
_ELSEWHERE = {
    **dict.fromkeys(("choice", "uniform", "loguniform", "randint", "grid_search"), _GENES),
    **dict.fromkeys(("Real", "Integer", "Categorical"), _GENES),
    **dict.fromkeys(("create_study", "minimize", "fmin", "gp_minimize", "optimize"), _RUN),
    **dict.fromkeys(("tune", "Tuner", "Optimizer"), _RUN),
    "load_study": "run or Study with the same folder=, which goes on",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES, _ELSEWHERE)
