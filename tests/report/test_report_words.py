"""Settings in words, and the commands to go on with."""

import pytest
from test_report_compression import stage

from netpress.report.commands import list_commands
from netpress.report.facts import RunFacts
from netpress.report.words import describe_augmentation, describe_data, describe_model, describe_stage

TRAINING = {
    "kind": "train",
    "epochs": 600,
    "rounds": 4,
    "batch_size": 128,
    "keep": "best",
    "optimizer": {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-5},
    "schedule": {"kind": "cosine", "minimum": 0.0005, "warmup": 5.0},
    "loss": {"kind": "label_smoothing", "epsilon": 0.1},
    "orthogonality": {"coefficient": 0.7},
    "augment": {"policy": ["trivial", "trivial"], "combine": "copies", "crop": 4, "flip": True, "cutout": 16},
    "mix": {"kind": "cutmix", "probability": 0.5},
}
GATE = "keeps an accuracy of 80.0%"
SHIFTED = "shifted by up to 2 pixels, the border reflected"
SMALL = "; small images first: of 16, 24 pixels in turn"


def test_a_training_in_words() -> None:
    assert describe_stage(stage("01-train", [], TRAINING)) == [
        "600 epochs in 4 rounds in batches of 128 images",
        "learning rate 0.1, rising over the first 5 epochs, falling along a cosine to 0.0005",
        "SGD with momentum 0.9 (Nesterov), weight decay 1e-05",
        "loss: label smoothing, 0.1 smoothed, penalty of 0.7 on weights that are not orthogonal",
        "images: 2 passes an epoch, each under a policy (trivial), shifted by up to 4 pixels, mirrored at random, "
        "a square of 16 pixels blanked",
        "batches mixed by CutMix with probability 0.5",
        "keeps the weights of the best epoch",
    ]


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        ("prune", {"amount": 0.6, "rounds": 2}, "removes 60% of the weights in 2 rounds"),
        (
            "prune",
            {"amount": 0.6, "rounds": 2, "pattern": [1, 4]},
            "removes 60% of the weights, in blocks of 1 output x 4 inputs in 2 rounds",
        ),
        ("prune_to_gate", {"gate": 0.8}, "removes as many weights as the accuracy allows, without training; " + GATE),
        ("quantize", {"preset": "int8"}, "stores and computes in int8"),
        (
            "prune",
            {"amount": 0.6, "gradual": {"begin": 0.0}},
            "removes 60% of the weights; little by little, while it trains",
        ),
        (
            "quantize",
            {"preset": "int4", "falling": [8, 6], "prune": {"amount": 0.7}},
            "stores and computes in int4, after rounds of 8, 6 bits, 70% of the weights removed little by little",
        ),
        ("quantize", {"preset": "int8", "train": {"epochs": 1}}, "stores and computes in int8; then trains 1 epoch"),
        ("train", {"sizes": [16, 24], "augment": {"crop": 2, "fill": "reflect"}}, "images: " + SHIFTED + SMALL),
        ("fold", {}, "folds norms into the layers before them"),
        ("unheard", {"epochs": 3}, ""),
        ("train", {"epochs": "?", "optimizer": 3, "schedule": {"kind": 1}, "augment": [], "mix": {"kind": []}}, ""),
    ],
)
def test_other_stages_in_words(kind: str, settings: dict[str, object], told: str) -> None:
    assert "; ".join(describe_stage(stage(f"01-{kind}", [], settings))) == told


@pytest.mark.parametrize(
    ("augment", "told"),
    [
        ({"crop": 0, "flip": False, "policy": "none"}, "not changed"),
        ({"policy": "rand", "jitter": {"brightness": 0.2}, "crop": 0}, "policy rand, random brightness"),
        ({"resized_crop": {"scale": [0.3, 1.0]}, "crop": 0}, "a random part of 30% to 100% of the area, stretched"),
        ({"resized_crop": {"scale": "?"}}, "a random part, stretched"),
        ({"copies": [{"flip": True}, {}]}, "2 passes an epoch: mirrored at random; not changed"),
    ],
)
def test_what_happens_to_images_in_words(augment: dict[str, object], told: str) -> None:
    assert describe_augmentation(augment) == told


def test_data_and_model_in_words() -> None:
    assert describe_model({"family": "resnet", "depth": 8}) == "resnet (depth 8)"
    assert describe_model({"network": "a.netpress"}) == "a.netpress"
    data = {"image_size": 64, "validation": 0.1, "select_on": "validation", "test_fraction": 0.2, "train_images": 500}
    assert describe_data(data, "the folder pets") == [
        "the folder pets",
        "resized to 64 x 64 pixels",
        "10% of the training images set apart to select on",
        "20% of each class for the test",
        "500 images to train on",
    ]
    assert describe_data({"select_on": "test", "validation": 0.1}, "") == ["selections look at the test images"]


def facts(folder, dataset: str, *kinds: str) -> RunFacts:
    stages = [stage(f"{place:02d}-{kind}", []) for place, kind in enumerate(kinds, 1)]
    return RunFacts(folder, "r", {"data": {"dataset": dataset}}, "", {}, stages, {"dataset": dataset}, [])


def test_commands_fit_the_run(tmp_path) -> None:
    lines = [command.line for command in list_commands(facts(tmp_path / "my run", "folder", "train", "quantize"))]
    assert lines[0] == "netpress predict 'my run' photo.jpg --top 5"
    assert any("--data DIR" in line for line in lines) and not any("apply quantize" in line for line in lines)
    lines = [command.line for command in list_commands(facts(tmp_path / "a", "digits", "train"))]
    assert "netpress apply quantize a --out a-int8.netpress" in lines and not any("--data" in line for line in lines)
