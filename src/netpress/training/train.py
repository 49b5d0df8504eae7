"""The `train` stage."""

from netpress.network import Network
from netpress.stage import STAGES, Context, Outlook, Plan, PlanRow, Stage
from netpress.training.answers import count_bytes
from netpress.training.checks import check_teaching, check_training
from netpress.training.loop import run_training
from netpress.training.regularizers import penalised_weights
from netpress.training.schedules import rate_at
from netpress.training.settings import TrainSettings

STEPS = 10_000  # of an epoch, for a plan


def train(network: Network, settings: TrainSettings, context: Context) -> Network:
    """Train `network` in place and return it; see `run_training` for what is saved and raised."""
    return run_training(network, settings, context).network


def plan(outlook: Outlook, settings: TrainSettings) -> Plan:
    """A row for each round, then one for each layer that SRIP touches. The network stays as it is.

    Raises UserError for a training that could not begin, or would undo what a stage before did.
    """
    check_real(outlook, settings)
    rows = [
        _plan_round(settings, index) | plan_answers(outlook, (settings, _new_epochs(settings, index)))
        for index in range(settings.rounds)
    ]
    if settings.orthogonality is not None:
        coefficient = settings.orthogonality.coefficient
        for name, weight in penalised_weights(outlook.network.module, settings.orthogonality).items():
            rows.append({"what": f"SRIP {name}", "shape": list(weight.shape), "coefficient": coefficient})
    return Plan(rows, outlook.network)


def check_real(outlook: Outlook, settings: TrainSettings) -> None:
    """Raise UserError for a training of real values that could not begin, or would undo what a stage before did."""
    outlook.refuse_quantized("training", "put it before, or give the stage `quantize` its own [train]")
    check_within(outlook, settings)


def check_within(outlook: Outlook, settings: TrainSettings, own_teacher: bool = False) -> None:
    """Raise UserError for a training that could not begin, as a stage or within another one.

    `own_teacher`: the stage has a teacher where the settings name none.
    """
    check_training(outlook.network, settings, outlook.images)
    check_teaching(outlook.network, settings, own_teacher, outlook.library)


def plan_answers(outlook: Outlook, *trainings: tuple[TrainSettings | None, int]) -> PlanRow:
    """What a plan's row of `trainings`, each with its epochs, says of the teachers' answers kept: MB, or nothing."""
    images, classes = outlook.images or 0, len(outlook.network.classes)
    kept = sum(count_bytes(settings, epochs, images, classes) for settings, epochs in trainings if settings is not None)
    return {"answers_MB": round(kept / 1e6, 3)} if kept else {}


def _new_epochs(settings: TrainSettings, index: int) -> int:
    """Epochs of round `index` whose images did not come before."""
    before, most = sum(map(settings.epochs_of, range(index))), settings.repeat_after or settings.epochs
    return min(before + settings.epochs_of(index), most) - min(before, most)


def _plan_round(settings: TrainSettings, index: int) -> PlanRow:
    highest, schedule = settings.optimizer.learning_rate, settings.schedule
    epochs = settings.epochs_of(index)
    # The plan is made without data, so an epoch is taken to have many steps: its first has the whole rate.
    first = rate_at(highest, schedule, 0, 0, epochs, STEPS)
    last = rate_at(highest, schedule, epochs - 1, STEPS - 1, epochs, STEPS)
    return {
        "what": f"round {index + 1}",
        "epochs": epochs,
        "passes": epochs * settings.augment.passes,
        "batch_size": settings.batch_size,
        "learning_rate": [float(f"{rate:.6g}") for rate in (first, last)],
        "loss": settings.loss.kind,
    }


STAGES.add("train", Stage(TrainSettings, train, plan, trainings=lambda settings: {"": settings}))
