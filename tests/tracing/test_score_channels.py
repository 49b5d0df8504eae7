"""A shuffle of channels costs the same however it is written; what is no shuffle costs nothing."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import netpress

SIDE, CHANNELS = 4, 12
ORDER = [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]  # 3 groups of 4, turned into 4 of 3


class Moved(nn.Module):
    def __init__(self, move: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.move = nn.Conv2d(3, CHANNELS, 1, bias=False), move
        self.register_buffer("order", torch.tensor(ORDER))

    def forward(self, x: Tensor) -> Tensor:
        return self.move(self.conv(x))


def _cost(move: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Bits and multiplications beyond those of the convolution."""
    card = netpress.score(Moved(move).eval(), (3, SIDE, SIDE))
    bare = netpress.score(Moved(lambda x: x).eval(), (3, SIDE, SIDE))
    return 32 * (card.params - bare.params), card.multiplications - bare.multiplications


SHUFFLES: dict[str, Callable[[Tensor], Tensor]] = {
    "transpose": lambda x: x.view(1, 3, 4, SIDE, SIDE).transpose(1, 2).reshape(x.shape),
    "permute": lambda x: x.view(1, 3, 4, SIDE, SIDE).permute(0, 2, 1, 3, 4).reshape(x.shape),
    "flat": lambda x: x.view(1, 3, 4, -1).transpose(1, 2).contiguous().view(x.shape),
    "stack": lambda x: torch.stack(x.chunk(3, 1), 2).flatten(1, 2),
    "parts": lambda x: torch.cat([part[:, k : k + 1] for k in range(4) for part in x.chunk(3, 1)], 1),
    "index": lambda x: x[:, ORDER],
    "index_select": lambda x: x.index_select(1, torch.tensor(ORDER)),
    "gather": lambda x: x.gather(1, torch.tensor(ORDER).view(1, -1, 1, 1).expand(x.shape)),
    "function": lambda x: nn.functional.channel_shuffle(x, 3),
    "channels last": lambda x: x.permute(0, 2, 3, 1)[..., ORDER].permute(0, 3, 1, 2),
    "function between": lambda x: x.view(1, 3, 4, -1).transpose(1, 2).neg().neg().reshape(x.shape).neg(),
}


@pytest.mark.parametrize("how", SHUFFLES)
def test_a_shuffle_is_a_product_with_a_sparse_matrix(how: str) -> None:
    """By the rules' text: a bit a channel, a mask of channels x channels, a multiplication a value."""
    image = torch.randn(1, CHANNELS, SIDE, SIDE)
    if how != "function between":
        assert torch.equal(SHUFFLES[how](image), image[:, ORDER])
    functions = 3 * CHANNELS * SIDE**2 if how == "function between" else 0
    assert _cost(SHUFFLES[how]) == (CHANNELS + CHANNELS**2, CHANNELS * SIDE**2 + functions)


@pytest.mark.parametrize(
    "move",
    [
        lambda x: x.transpose(2, 3),
        lambda x: x.permute(0, 2, 3, 1).flatten(1),
        lambda x: x.view(1, 3, 4, SIDE, SIDE).transpose(1, 2),
        lambda x: x.flip(3).roll(1, 2),
        lambda x: torch.cat(x.chunk(3, 1), 1),
        lambda x: torch.cat([x[:, :3], x[:, 6:]], 1),
        lambda x: torch.cat([x, x], 1),
        lambda x: x[:, ::2],
        lambda x: nn.functional.pixel_unshuffle(nn.functional.pixel_shuffle(x, 2), 2),
        lambda x: nn.functional.pad(x, (1, 1, 1, 1, 2, 2)),
        lambda x: x.flatten(2).transpose(1, 2).reshape(1, SIDE, SIDE, CHANNELS).roll((1, 1), (1, 2)),
        lambda x: x.view(1, CHANNELS, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(4, 4, CHANNELS),
    ],
    ids=[
        *("turned", "flat", "left in groups", "mirrored", "joined again", "some left out", "twice", "every second"),
        *("space and depth", "padded", "rolled tokens", "windows"),
    ],
)
def test_other_moves_cost_nothing(move: Callable[[Tensor], Tensor]) -> None:
    assert _cost(move) == (0, 0)


def test_a_stored_order_is_the_sparse_matrix_and_not_stored_again() -> None:
    class Own(Moved):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)[:, self.order]

    listed = netpress.score(Moved(lambda x: x[:, ORDER]), (3, SIDE, SIDE))
    assert netpress.score(Own(lambda x: x), (3, SIDE, SIDE)).params == listed.params


def test_results_that_take_turns_are_shuffled_and_those_in_a_row_are_not() -> None:
    class Two(nn.Module):
        def __init__(self, turns: bool) -> None:
            super().__init__()
            self.a, self.b, self.turns = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), turns

        def forward(self, x: Tensor) -> Tensor:
            parts = [self.b(x), self.a(x)]
            return torch.stack(parts, 2).flatten(1, 2) if self.turns else torch.cat(parts, 1)

    costs = [32 * netpress.score(Two(turns), (3, SIDE, SIDE)).params for turns in (True, False)]
    assert costs[0] - costs[1] == 8 + 64


def test_heads_of_attention_cost_nothing_beside_their_products() -> None:
    module = nn.MultiheadAttention(8, 2, batch_first=True).eval()

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x, x, x, need_weights=False)[0]

    kinds = {row.kind for row in netpress.score(Attention(), (6, 8)).rows}
    assert "channel_shuffle" not in kinds
