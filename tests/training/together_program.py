"""What `test_together.py` runs in two processes: trainings by one and by two, the loss of each epoch as JSON."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from netpress.data import Dataset, Images
from netpress.folders.answers import AnswersFolder
from netpress.network import Network, create, save
from netpress.network.fingerprint import fingerprint
from netpress.process.console import Console
from netpress.process.launch import rank_and_size
from netpress.process.team import dismiss, follow, lead
from netpress.process.world import World
from netpress.settings import parse
from netpress.stage import Context
from netpress.training import TrainSettings, run_training
from netpress.training.together.helping import serve

torch.set_num_threads(1)
PLAIN = {"epochs": 1, "batch_size": 17, "augment": {"crop": 1}, "optimizer": {"kind": "sgd", "learning_rate": 0.02}}
TRAININGS = {
    # 69 images: four batches of 17, shared as 8 and 9, and one image that is left out.
    "gates": ("c_efficientnet", {"widths": "tiny", "dropout": 0.2}, {"mix": {"kind": "cutmix"}}),
    "dense": ("densenet", {"blocks": [1, 1], "growth": 4}, {"loss": {"kind": "adaptive_label_smoothing"}}),
    "wide": ("wide_resnet", {"depth": 10, "width": 1}, {"mix": {"kind": "mixup"}, "clip_norm": 0.5}),
    "shaken": ("pyramidnet", {"depth": 11, "alpha": 8}, {"orthogonality": {"on": "conv"}, "average": {}}),
    "taught": ("wide_resnet", {"depth": 10, "width": 1}, {"distillation": {"teachers": ["TEACHER"]}}),
    "kept": (
        "wide_resnet",
        {"depth": 10, "width": 1},
        {"distillation": {"teachers": ["TEACHER"], "keep_answers": True, "mode": "batch_statistics"}},
    ),
}


def draw(count: int, seed: int) -> Images:
    """As the fixture `shades`, with as many images as asked for."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    pixels = torch.randint(0, 60, (count, 3, 8, 8), generator=generator) + labels.view(-1, 1, 1, 1) * 60
    return Images(pixels.clamp(0, 255).to(torch.uint8), labels)


SHADES = Dataset("shades", draw(69, 1), draw(20, 2), draw(20, 3), ("a", "b", "c", "d"), (0.5,) * 3, (0.3,) * 3, "none")


def train(name: str, folder: Path, world: World, answers: Path) -> dict[str, object]:
    """One training of TRAININGS; the figures of its epoch, and what network it left."""
    family, model, settings = TRAININGS[name]
    network = make(family, model)
    told = json.loads(json.dumps(PLAIN | settings).replace("TEACHER", str(folder.parent / "teacher.netpress")))
    folder.mkdir()
    kept = AnswersFolder(answers, 10**9)
    context = Context(folder, world, 5, Console(quiet=True), SHADES, name=name, answers=kept)
    trained = run_training(network, parse(TrainSettings, told, "train"), context)
    line = context.logged()[0]
    running = [b for n, b in network.module.named_buffers() if n.endswith(("running_mean", "running_var"))]
    return {
        "loss": line["loss"],
        "right": line["train_accuracy"],
        "selection": line["selection_loss"],
        "statistics": float(torch.cat(running).norm()),
        "fingerprint": fingerprint(trained.network),
    }


def make(family: str, model: dict[str, object]) -> Network:
    """A new network for the images of SHADES."""
    settings = {**model, "classes": 4, "image_size": 8}
    return create(family, settings, classes=SHADES.classes, mean=SHADES.mean, std=SHADES.std, seed=3)


def main() -> None:
    if rank_and_size()[0]:
        os._exit(follow(serve))
    code = 1
    try:
        team = lead(torch.device("cpu"))
        found: dict[str, dict[str, object]] = {}
        with TemporaryDirectory() as place:
            save(make("wide_resnet", {"depth": 10, "width": 1}), Path(place) / "teacher.netpress")
            for name in TRAININGS:
                worlds = {"one": World(torch.device("cpu")), "two": World(torch.device("cpu"), team)}
                found[name] = {
                    which: train(name, Path(place) / f"{name}-{which}", world, Path(place) / f"answers-{which}")
                    for which, world in worlds.items()
                }
                if name == "kept":  # once more, with the answers that are there now
                    found[name]["again"] = train(
                        name, Path(place) / "again", worlds["two"], Path(place) / "answers-two"
                    )
        print(json.dumps(found))
        code = 0
    finally:
        dismiss(code)


main()
