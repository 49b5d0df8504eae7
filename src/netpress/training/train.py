"""The `train` stage."""

from netpress.network import Network
from netpress.stage import Context, Outlook, PlanRow, register_stage
from netpress.training.checks import check_teaching, check_training
from netpress.training.loop import run_training
from netpress.training.regularizers import penalised_weights
from netpress.training.schedules import rate_at
from netpress.training.settings import TrainSettings

STEPS = 10_000  # of an epoch, for a plan


def train(network: Network, settings: TrainSettings, context: Context) -> Network:
    """Train `network` in place and return it; see `run_training` for what is saved and raised."""
    return run_training(network, settings, context).network


def plan(network: Network, settings: TrainSettings) -> list[PlanRow]:
    """A row for each round, then one for each layer that SRIP touches. Raises UserError as the training would."""
    rows: list[PlanRow] = []
    check_training(network, settings)
    highest, schedule = settings.optimizer.learning_rate, settings.schedule
    for index in range(settings.rounds):
        epochs = settings.epochs_of(index)
        # The plan is made without data, so an epoch is taken to have many steps: its first has the whole rate.
        first = rate_at(highest, schedule, 0, 0, epochs, STEPS)
        last = rate_at(highest, schedule, epochs - 1, STEPS - 1, epochs, STEPS)
        rows.append(
            {
                "what": f"round {index + 1}",
                "epochs": epochs,
                "passes": epochs * settings.augment.copies,
                "batch_size": settings.batch_size,
                "learning_rate": [float(f"{rate:.6g}") for rate in (first, last)],
                "loss": settings.loss.kind,
            }
        )
    if settings.orthogonality is not None:
        for name, weight in penalised_weights(network.module, settings.orthogonality).items():
            coefficient = settings.orthogonality.coefficient
            rows.append({"what": f"SRIP {name}", "shape": list(weight.shape), "coefficient": coefficient})
    return rows


def check(outlook: Outlook, settings: TrainSettings) -> None:
    """Raise UserError for a training that could not begin, or would undo what was done before."""
    outlook.refuse_quantized("training", "put it before, or give the stage `quantize` its own [train]")
    check_within(outlook, settings)


def check_within(outlook: Outlook, settings: TrainSettings, own_teacher: bool = False) -> None:
    """As `check`, for a training within another stage, which may be that of a quantized network.

    `own_teacher`: the stage has a teacher where the settings name none.
    """
    check_training(outlook.network, settings, outlook.images)
    check_teaching(outlook.network, settings, own_teacher, outlook.allow_import)


register_stage("train", TrainSettings, train, plan, check=check)
