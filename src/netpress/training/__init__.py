"""Training: the loop, its parts, the losses with their teachers."""

from netpress.training.loop import Trained, run_training
from netpress.training.settings import TrainSettings
from netpress.training.teachers import MeanTeacher, load_teachers
from netpress.training.train import plan, train

__all__ = ["MeanTeacher", "TrainSettings", "Trained", "load_teachers", "plan", "run_training", "train"]
