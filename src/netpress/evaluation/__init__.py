"""How good a network is: its accuracy, the same in exact integers, its predictions."""

from netpress.evaluation.accuracy import Evaluation, evaluate, evaluate_module, predict
from netpress.evaluation.exact import ExactEvaluation, evaluate_exactly
from netpress.evaluation.ranking import best_class, rank_classes

__all__ = [
    "Evaluation",
    "ExactEvaluation",
    "best_class",
    "evaluate",
    "evaluate_exactly",
    "evaluate_module",
    "predict",
    "rank_classes",
]
