"""How good a network is: its accuracy, the same in exact integers, its predictions."""

from netpress.evaluation.accuracy import Evaluation, evaluate, evaluate_module, predict
from netpress.evaluation.exact import ExactEvaluation, evaluate_exactly
from netpress.evaluation.predictions import Predictions, predictions_of, read_predictions, save_predictions
from netpress.evaluation.ranking import best_class, rank_classes

__all__ = [
    "Evaluation",
    "ExactEvaluation",
    "Predictions",
    "best_class",
    "evaluate",
    "evaluate_exactly",
    "evaluate_module",
    "predict",
    "predictions_of",
    "rank_classes",
    "read_predictions",
    "save_predictions",
]
