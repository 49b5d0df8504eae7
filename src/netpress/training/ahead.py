"""Asking teachers before a training, or beside it: it reads their answers then, and only the student is left.

A machine with two cores trains a student on one and asks its teachers on the other. Whoever comes first to an epoch
asks; to the training it makes no difference but time.
"""

import torch

from netpress.network import Network
from netpress.stage import Context
from netpress.training.answers import KeptAnswers
from netpress.training.batching import epoch_batches, epoch_images
from netpress.training.position import Position
from netpress.training.settings import TrainSettings
from netpress.training.step import StepRandomness, TrainingStep


@torch.no_grad()
def ask_ahead(network: Network, settings: TrainSettings, context: Context, used: set[str] | None = None) -> int:
    """Ask the teachers of a training for all answers that are not kept yet; how many epochs it came to.

    `network` has the student's input and classes; its weights and layers do not matter. Epochs that are kept are passed
    over; it ends where the folder has no room for more. `used`: keys of answers that must stay there, to which these
    are added. Raises UserError where teachers are missing or do not fit, Failure where nothing can be written.
    """
    device = context.device
    bare = settings.model_copy(update={"orthogonality": None, "average": None, "compile": "off"})  # of the student
    step = TrainingStep(network, bare, context.data.train.to(device), library=context.library)
    teacher = step.loss.teacher
    if teacher is None or context.answers is None:
        return 0
    position = Position(settings, len(epoch_batches(settings, context, (0, 0))))
    precision = "bfloat16" if step.bfloat16 else "float32"
    kept = KeptAnswers(teacher, network, settings, context, position, epoch_images(settings, context), precision, used)
    asked, drawn = 0, set()
    while not position.is_over:
        if position.drawn not in drawn and not kept.has_all():
            for batch in epoch_batches(settings, context, position.drawn):
                place = (context.name, *position.drawn, position.step)
                pixels, _ = step.prepare(batch.to(device), StepRandomness(context.seed, place, device), position.size)
                with torch.autocast(device.type, torch.bfloat16, enabled=step.bfloat16):
                    teacher(pixels)
                position.step += 1
            if kept.problem is not None:
                raise kept.problem
            if kept.is_full:
                break
            asked += 1
            context.console.say(f"{context.name}: asked for epoch {position.epochs_before + 1} of {settings.epochs}")
        drawn.add(position.drawn)
        position.end_epoch(position.is_last_epoch)
    return asked
