import torch

from netpress.process.world import World


def test_a_world_of_one_is_the_usual():
    world = World(torch.device("cpu"))
    assert (world.team, world.size) == (None, 1)
