"""Settings in words: what a stage was asked to do, as people would say it.

    describe_training({"epochs": 16, "batch_size": 64, ...})
    == ["16 epochs in batches of 64 images", "learning rate 0.1, falling along a cosine to 0.0005", ...]

Settings are plain values of a recipe.toml. What is missing or of the wrong type is left out.
"""

from collections.abc import Callable, Mapping
from typing import Any

from netpress.report.facts import StageFacts, number
from netpress.report.figures import percent, plain, whole

Table = Mapping[str, Any]


def describe_stage(stage: StageFacts) -> list[str]:
    """What a stage was asked to do, a phrase each: first its own work, then the training that it brings."""
    own = WORK.get(stage.kind, _nothing)(stage.settings)
    training = stage.settings if stage.kind == "train" else _table(stage.settings, "train")
    phrases = describe_training(training) if training else []
    if own and _length(training):
        phrases[0] = f"then trains {phrases[0]}"
    return own + phrases


def describe_training(training: Table) -> list[str]:
    """Length, learning rate, optimizer, loss and what happens to the images."""
    optimizer = _table(training, "optimizer")
    phrases = [
        _length(training),
        _rate(optimizer, _table(training, "schedule")),
        _optimizer(optimizer),
        _loss(training),
        f"images: {describe_augmentation(_table(training, 'augment'))}" if _table(training, "augment") else "",
        f"small images first: of {_sizes(training)} pixels in turn" if _sizes(training) else "",
        "images of small classes return more often" if training.get("sampling") == "balanced" else "",
        _mixing(_table(training, "mix")),
        "keeps the weights of the best epoch" if training.get("keep") == "best" else "",
        "keeps a moving average of the weights" if _table(training, "average") else "",
    ]
    return [phrase for phrase in phrases if phrase]


def describe_augmentation(augment: Table) -> str:
    """What happens to a training image, in order."""
    copies = augment.get("copies")
    if isinstance(copies, list) and copies:
        parts = [describe_augmentation(copy) for copy in copies if isinstance(copy, Mapping)]
        return f"{len(parts)} passes an epoch: " + "; ".join(parts)
    policy = augment.get("policy")
    names = policy if isinstance(policy, list) else [policy] if isinstance(policy, str) and policy != "none" else []
    said = [f"policy {', '.join(dict.fromkeys(map(plain, names)))}"] if names else []
    if names and augment.get("combine") == "copies":
        said = [f"{len(names)} passes an epoch, each under a policy ({', '.join(dict.fromkeys(map(plain, names)))})"]
    jitter = _table(augment, "jitter")
    if jitter:
        said.append(f"random {' and '.join(map(plain, jitter))}")
    crop = _table(augment, "resized_crop")
    if crop:
        low, high = _pair(crop.get("scale"))
        share = "" if low is None else f" of {percent(low, 0)} to {percent(high, 0)} of the area"
        said.append(f"a random part{share}, stretched")
    if number(augment.get("crop")):
        border = ", the border reflected" if augment.get("fill") == "reflect" else ""
        said.append(f"shifted by up to {whole(augment['crop'])} pixels{border}")
    if augment.get("flip") is True:
        said.append("mirrored at random")
    if number(augment.get("cutout")):
        said.append(f"a square of {whole(augment['cutout'])} pixels blanked")
    return ", ".join(said) or "not changed"


def describe_model(model: Table) -> str:
    """The family or the file that a run begins with, and its settings."""
    settings = dict(model)
    name = settings.pop("family", settings.pop("network", None))
    told = ", ".join(f"{key.replace('_', ' ')} {plain(value)}" for key, value in settings.items())
    return f"{plain(name)} ({told})" if told else plain(name)


def describe_data(data: Table, images: str) -> list[str]:
    """Which images, and how they are divided."""
    phrases = [images] if images else []
    size = number(data.get("image_size"))
    phrases += [f"resized to {whole(size)} x {whole(size)} pixels"] if size else []
    share = number(data.get("validation"))
    if data.get("select_on") == "test":
        phrases.append("selections look at the test images")
    elif share:
        phrases.append(f"{percent(share, 0)} of the training images set apart to select on")
    part = number(data.get("test_fraction"))
    phrases += [f"{percent(part, 0)} of each class for the test"] if part else []
    limit = number(data.get("train_images"))
    return phrases + ([f"{whole(limit)} images to train on"] if limit else [])


def _length(training: Table) -> str:
    epochs, size, rounds = (number(training.get(name)) for name in ("epochs", "batch_size", "rounds"))
    said = f"{whole(epochs)} epoch{'' if epochs == 1 else 's'}" if epochs else ""
    said += f" in {whole(rounds)} rounds" if said and rounds and rounds > 1 else ""
    return f"{said} in batches of {whole(size)} images" if said and size else said


SCHEDULES: dict[str, Callable[[Table], str]] = {
    "cosine": lambda schedule: f", falling along a cosine to {plain(schedule.get('minimum', 0.0))}",
    "step": lambda schedule: f", times {plain(schedule.get('factor'))} at {_shares(schedule)} of the way",
    "piecewise": lambda schedule: f", times {plain(schedule.get('multipliers'))} from {_shares(schedule)} of the way",
    "constant": lambda schedule: ", constant",
}


def _rate(optimizer: Table, schedule: Table) -> str:
    rate = number(optimizer.get("learning_rate"))
    if rate is None:
        return ""
    kind = plain(schedule.get("kind"))
    falls = SCHEDULES.get(kind, lambda other: f", schedule {kind}" if schedule else "")(schedule)
    warmup = number(schedule.get("warmup"))
    first = "epoch" if warmup == 1 else f"{plain(warmup)} epochs"
    rises = f", rising over the first {first}" if warmup else ""
    return f"learning rate {plain(rate)}{rises}{falls}"


def _shares(schedule: Table) -> str:
    milestones = schedule.get("milestones")
    values = milestones if isinstance(milestones, list) else []
    return ", ".join(percent(value, 0) for value in values)


def _optimizer(optimizer: Table) -> str:
    kind = optimizer.get("kind")
    if not isinstance(kind, str):
        return ""
    momentum, decay = number(optimizer.get("momentum")), number(optimizer.get("weight_decay"))
    said = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}.get(kind, kind)
    said += f" with momentum {plain(momentum)}" if momentum else ""
    said += " (Nesterov)" if momentum and optimizer.get("nesterov") is True else ""
    return said + (f", weight decay {plain(decay)}" if decay is not None else "")


def _loss(training: Table) -> str:
    loss, teacher, penalty = (_table(training, name) for name in ("loss", "distillation", "orthogonality"))
    kind = loss.get("kind")
    said = [f"loss: {kind.replace('_', ' ')}"] if isinstance(kind, str) else []
    epsilon = number(loss.get("epsilon"))
    said += [f"{plain(epsilon)} smoothed"] if said and epsilon else []
    teachers = teacher.get("teachers") or loss.get("teachers")
    if teacher or teachers:
        said.append(f"taught by {plain(teachers)}" if teachers else "taught by the network before")
    coefficient = number(penalty.get("coefficient"))
    said += [f"penalty of {plain(coefficient)} on weights that are not orthogonal"] if coefficient else []
    return ", ".join(said)


def _sizes(training: Table) -> str:
    sizes = training.get("sizes")
    return ", ".join(map(plain, sizes)) if isinstance(sizes, list) else ""


def _mixing(mix: Table) -> str:
    kind, likely = mix.get("kind"), number(mix.get("probability"))
    if kind not in ("cutmix", "mixup"):
        return ""
    name = "CutMix" if kind == "cutmix" else "mixup"
    return f"batches mixed by {name}" + (f" with probability {plain(likely)}" if likely not in (None, 1) else "")


def _prune(stage: Table) -> list[str]:
    amount, rounds = number(stage.get("amount")), number(stage.get("rounds"))
    said = [f"removes {percent(amount, 0)} of the weights{_blocks(stage)}"] if amount is not None else []
    if rounds and rounds > 1:
        said = [f"{phrase} in {whole(rounds)} rounds" for phrase in said]
    said += ["zeroed weights may grow back until the last epoch"] if stage.get("soft") is True else []
    return said + (["little by little, while it trains"] if _table(stage, "gradual") else []) + _gate(stage)


def _prune_to_gate(stage: Table) -> list[str]:
    return [f"removes as many weights{_blocks(stage)} as the accuracy allows, without training", *_gate(stage)]


def _blocks(stage: Table) -> str:
    """Which weights stay or go together."""
    pattern = stage.get("pattern")
    if not isinstance(pattern, list | tuple) or len(pattern) != 2:
        return ""
    outputs, inputs = (number(length) for length in pattern)
    return f", in blocks of {_counted(outputs, 'output')} x {_counted(inputs, 'input')}"


def _counted(count: float | None, what: str) -> str:
    return f"{whole(count)} {what}" + ("" if count == 1 else "s")


def _prune_channels(stage: Table) -> list[str]:
    importance = stage.get("importance")
    return [f"removes whole channels, the least important by {plain(importance)}", *_targets(stage), *_gate(stage)]


def _factorize(stage: Table) -> list[str]:
    return [f"splits layers into factors ({plain(stage.get('truncation'))})", *_targets(stage), *_gate(stage)]


def _quantize(stage: Table) -> list[str]:
    said = f"stores and computes in {plain(stage.get('preset'))}"
    said += ", a width chosen for each layer" if stage.get("bits") == "auto" else ""
    for name, words in (("target_accuracy", "accuracy to keep"), ("target_score", "score to reach")):
        said += f", {words} {plain(stage[name])}" if number(stage.get(name)) is not None else ""
    falling, amount = stage.get("falling"), number(_table(stage, "prune").get("amount"))
    said += f", after rounds of {', '.join(map(plain, falling))} bits" if isinstance(falling, list) and falling else ""
    said += f", {percent(amount, 0)} of the weights removed little by little" if amount is not None else ""
    return [said]


def _fold(stage: Table) -> list[str]:
    return ["folds norms into the layers before them"]


def _activations(stage: Table) -> list[str]:
    return [f"replaces activations by a {plain(stage.get('to'))}"]


def _simplify(stage: Table) -> list[str]:
    return ["takes out what is computed for nothing"]


def _nothing(stage: Table) -> list[str]:
    return []


def _gate(stage: Table) -> list[str]:
    gate = number(stage.get("gate"))
    return [f"keeps an accuracy of {percent(gate, 1)}"] if gate is not None else []


def _targets(stage: Table) -> list[str]:
    share, score = number(stage.get("compression")), number(stage.get("score"))
    said = [f"until {percent(share, 0)} of the parameters are gone"] if share is not None else []
    return said + ([f"until a score of {plain(score)}"] if score is not None else [])


WORK: dict[str, Callable[[Table], list[str]]] = {
    "prune": _prune,
    "prune_to_gate": _prune_to_gate,
    "prune_channels": _prune_channels,
    "factorize": _factorize,
    "quantize": _quantize,
    "fold": _fold,
    "simplify": _simplify,
    "activations": _activations,
}


def _table(values: Table, name: str) -> Table:
    value = values.get(name)
    return value if isinstance(value, Mapping) else {}


def _pair(value: Any) -> tuple[float | None, float | None]:
    """Two numbers; None for both where it is anything else."""
    ends = [number(end) for end in value] if isinstance(value, list) else []
    return (ends[0], ends[1]) if len(ends) == 2 and None not in ends else (None, None)
