"""The `train` stage."""

from netpress.network import Network
from netpress.stage import Context, PlanRow, register_stage
from netpress.training.loop import run_training
from netpress.training.losses import AdaptiveLabelSmoothing, classifier_weight
from netpress.training.optimizers import rate_at
from netpress.training.regularizers import penalised_weights
from netpress.training.settings import TrainSettings
from netpress.training.teachers import load_teachers


def train(network: Network, settings: TrainSettings, context: Context) -> Network:
    """Train `network` in place and return it; see `run_training` for what is saved and raised."""
    teacher = None
    if settings.distillation is not None:
        teacher = load_teachers(settings.distillation.teachers, network, context.allow_import)
    return run_training(network, settings, context, teacher=teacher).network


def plan(network: Network, settings: TrainSettings) -> list[PlanRow]:
    """A row for each round, then one for each layer that SRIP touches. Raises UserError as the training would."""
    rows: list[PlanRow] = []
    settings.augment.read_policies()
    highest, schedule = settings.optimizer.learning_rate, settings.schedule
    if isinstance(settings.loss, AdaptiveLabelSmoothing):
        classifier_weight(network.module)
    for index in range(settings.rounds):
        epochs = settings.epochs_of(index)
        # A step is counted as one here: the plan is made without data, so their number is not known.
        first, last = (rate_at(highest, schedule, epoch, 0, epochs, 1) for epoch in (0, epochs - 1))
        rows.append(
            {
                "what": f"round {index + 1}",
                "epochs": epochs,
                "passes": epochs * settings.augment.copies,
                "batch_size": settings.batch_size,
                "learning_rate": [first, last],
                "loss": settings.loss.kind,
            }
        )
    if settings.orthogonality is not None:
        for name, weight in penalised_weights(network.module, settings.orthogonality).items():
            coefficient = settings.orthogonality.coefficient
            rows.append({"what": f"SRIP {name}", "shape": list(weight.shape), "coefficient": coefficient})
    return rows


register_stage("train", TrainSettings, train, plan)
