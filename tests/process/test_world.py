import pytest
import torch

from netpress.process.world import World


def test_a_world_of_one_is_the_usual():
    world = World(torch.device("cpu"))
    assert (world.rank, world.size) == (0, 1)


@pytest.mark.parametrize(("rank", "size"), [(1, 1), (-1, 2), (0, 0)])
def test_a_rank_that_no_world_has(rank, size):
    with pytest.raises(ValueError, match="has ranks"):
        World(torch.device("cpu"), rank, size)
