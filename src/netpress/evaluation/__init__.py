"""How good a network is: its accuracy, the same in exact integers, its predictions, its mistakes; and asking it."""

from netpress.evaluation.accuracy import Evaluation, evaluate, evaluate_module, predict
from netpress.evaluation.asking import Answer, Executor, Guess, ask
from netpress.evaluation.calibration import Calibration, calibrate
from netpress.evaluation.exact import ExactEvaluation, evaluate_exactly
from netpress.evaluation.interval import accuracy_interval
from netpress.evaluation.mistakes import confusion_matrix, most_confused, surest_mistakes
from netpress.evaluation.predictions import Predictions, predictions_of, read_predictions, save_predictions
from netpress.evaluation.ranking import best_class, check_scale, ends_in_cosines, rank_classes

__all__ = [
    "Answer",
    "Calibration",
    "Evaluation",
    "ExactEvaluation",
    "Executor",
    "Guess",
    "Predictions",
    "accuracy_interval",
    "ask",
    "best_class",
    "calibrate",
    "check_scale",
    "confusion_matrix",
    "ends_in_cosines",
    "evaluate",
    "evaluate_exactly",
    "evaluate_module",
    "most_confused",
    "predict",
    "predictions_of",
    "rank_classes",
    "read_predictions",
    "save_predictions",
    "surest_mistakes",
]
