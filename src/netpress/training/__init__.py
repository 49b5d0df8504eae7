"""Training: the loop, losses, regularizers, optimizers, teachers, and evaluation."""

from netpress.training.evaluation import Evaluation, evaluate, evaluate_module, predict
from netpress.training.exact import ExactEvaluation, evaluate_exactly
from netpress.training.loop import Trained, run_training
from netpress.training.ranking import best_class, rank_classes
from netpress.training.settings import TrainSettings
from netpress.training.teachers import MeanTeacher, load_teachers
from netpress.training.train import plan, train

__all__ = [
    "Evaluation",
    "ExactEvaluation",
    "MeanTeacher",
    "TrainSettings",
    "Trained",
    "best_class",
    "evaluate",
    "evaluate_exactly",
    "evaluate_module",
    "load_teachers",
    "plan",
    "predict",
    "rank_classes",
    "run_training",
    "train",
]
