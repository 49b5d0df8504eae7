"""Memory of activations of whole families against closed forms, written down layer by layer from their drawings.

What lives while an operation runs, in values of one image: residuals, concatenations, gates. All nets are in floats.
"""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from netpress.network import Network, create
from netpress.scoring import measure_footprint, trace_network

FLOAT = 4  # bytes
calmly = settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.too_slow])


def network_of(family: str, **table: Any) -> Network:
    return create(family, {"classes": 10, **table}, shapes=True)


def ram(network: Network) -> int:
    return measure_footprint(trace_network(network), network).ram_bytes


def resnet(width: int, blocks: list[int], side: int) -> int:
    needs = [3 * side**2 + width * side**2, 2 * width * side**2]  # stem: convolution, then norm and ReLU
    channels = width
    for stage, count in enumerate(blocks):
        outputs = width * 2**stage
        for index in range(count):
            before = channels * side**2
            if stage and not index:
                side = -(-side // 2)
            after = outputs * side**2
            needs += [before + after, before + 2 * after]  # x and the first convolution; x, its result, norm or ReLU
            if before != after:  # y, and x through a convolution of its own with a norm; x is gone by then
                needs += [before + 2 * after, 3 * after]
            else:
                needs += [before + 2 * after]  # x, y and their sum
            channels = outputs
    return FLOAT * max(needs)


@calmly
@given(st.integers(2, 9), st.lists(st.integers(1, 2), min_size=1, max_size=3), st.sampled_from([8, 15, 16]))
def test_residuals(width: int, blocks: list[int], side: int) -> None:
    assert ram(network_of("resnet", width=width, blocks=blocks, image_size=side)) == resnet(width, blocks, side)


def densenet(growth: int, blocks: list[int], bottleneck: int, side: int) -> int:
    channels, inside = 2 * growth, bottleneck * growth
    needs = [3 * side**2 + channels * side**2]
    for index, count in enumerate(blocks):
        if index:
            outputs = max(1, channels // 2)
            needs += [2 * channels * side**2, (channels + outputs) * side**2]  # norm or ReLU; convolution
            side, channels = side // 2, outputs
        for _ in range(count):
            # x stays until it is joined. x, its norm, ReLU; with the narrow maps, their norm or ReLU; what is joined
            # together with what comes of it.
            parts = [3 * channels, 2 * channels + inside, channels + 2 * inside, channels + inside + growth]
            channels += growth
            needs += [part * side**2 for part in (*parts, 2 * channels)]
    return FLOAT * max(*needs, 2 * channels * side**2)


@calmly
@given(
    st.integers(1, 6),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.integers(1, 6),
    st.sampled_from([8, 16]),
)
def test_concatenations(growth: int, blocks: list[int], bottleneck: int, side: int) -> None:
    network = network_of("densenet", growth=growth, blocks=blocks, bottleneck=bottleneck, image_size=side)
    assert ram(network) == densenet(growth, blocks, bottleneck, side)


def c_efficientnet(network: Network, side: int) -> int:
    """Of blocks it takes the widths from the network, and the strides."""
    stem: Any = network.module.get_submodule("stem")
    image = 3 * side**2
    side = -(-side // stem.conv.stride[0])
    first = stem.conv.out_channels * side**2
    needs = [image + first, 2 * first]
    blocks: Any = network.module.get_submodule("blocks")
    for block in blocks:
        inputs, inside, outputs = (
            block.expand.conv.in_channels,
            block.expand.conv.out_channels,
            block.project.conv.out_channels,
        )
        before, wide = inputs * side**2, inside * side**2
        x = 0 if block.shortcut is None else before  # stays for the sum
        needs += [before + wide, x + 2 * wide]  # the expansion; its norm or hard-swish
        side = -(-side // block.depthwise.conv.stride[0])
        narrow, after = inside * side**2, outputs * side**2
        needs += [x + wide + narrow, x + 2 * narrow, x + narrow + after, x + 2 * after]
        if block.squeeze_excite is not None:  # y, a gate a channel, their product
            needs += [x + 2 * after + outputs]
        if isinstance(block.shortcut, nn.Identity):
            needs += [before + 2 * after]
        elif block.shortcut is not None:
            needs += [before + 2 * after, 3 * after]
    return FLOAT * max(needs)


@calmly
@given(
    st.sampled_from(["tiny", "v1", "paper"]),
    st.sampled_from([0.25, 0.5, 0.8]),
    st.sampled_from([0.5, 1.0, 2.5]),
    st.sampled_from([0.0, 0.25]),
)
def test_gates(preset: str, width_factor: float, expansion: float, squeeze_ratio: float) -> None:
    table = {"widths": preset, "width_factor": width_factor, "expansion": expansion, "squeeze_ratio": squeeze_ratio}
    network = network_of("c_efficientnet", **table, image_size=16)
    assert ram(network) == c_efficientnet(network, 16)
