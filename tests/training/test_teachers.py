"""Teachers: how they answer, what is said of them, and trainings that began before they had all their settings."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_resume import make_context, make_network

from netpress.errors import UserError
from netpress.settings import parse
from netpress.training import TrainSettings, run_training

TAUGHT: dict[str, Any] = {"epochs": 1, "batch_size": 8, "distillation": {"temperature": 2.0}}


def _train(folder: Path, values: dict[str, Any]) -> dict[str, torch.Tensor]:
    network = make_network()
    run_training(network, parse(TrainSettings, values), make_context(folder, 1e9), own_teacher=make_network())
    return network.module.state_dict()


def test_a_state_that_is_older_than_a_setting_is_gone_on_from(tmp_path):
    context = make_context(tmp_path)
    expected = _train(tmp_path, TAUGHT)
    tensors, values = context.load_state()
    del values["settings"]["distillation"]["t_squared"]
    context.save_state(tensors, values)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in _train(tmp_path, TAUGHT).items())
    for other in ({"t_squared": False}, {"temperature": 3.0}):
        with pytest.raises(UserError, match="holds a training with other settings"):
            _train(tmp_path, TAUGHT | {"distillation": TAUGHT["distillation"] | other})
