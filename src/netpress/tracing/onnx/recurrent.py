"""LSTM, GRU and RNN of ONNX, calculated step by step as torch does, so that they cost what torch's layers cost."""

from typing import Any

import torch
from torch import Tensor

from netpress.tracing.onnx.nodes import Node, Plan, all_operands

_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Where torch's gates lie among ONNX's: input, forget, cell, output of iofc; reset, update, new of zrh."""
_LONGEST = 4096


def recurrent(node: Node) -> Plan:
    """Reader of a recurrent layer with its usual functions, over a whole sequence [steps, batch, values]."""
    kind, hidden = node.kind, node.attributes.get("hidden_size", node.tensor(2).shape[-1])
    direction = node.attributes.get("direction", "forward")
    usual = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}[kind]
    activations = [
        name.decode() if isinstance(name, bytes) else name for name in node.attributes.get("activations", usual)
    ]
    if any(activations[k : k + len(usual)] != usual for k in range(0, len(activations), len(usual))):
        raise node.refuse(f"its functions are {', '.join(activations)}; only {', '.join(usual)} are read")
    if node.attributes.get("layout", 0) or node.attributes.get("clip") or node.attributes.get("input_forget", 0):
        raise node.refuse("layout, clip and input_forget are not read")
    if kind == "GRU" and not node.attributes.get("linear_before_reset", 0):
        raise node.refuse("only linear_before_reset = 1, as torch calculates and exports it, is read")
    if node.value(7) is not None:
        raise node.refuse("peepholes are not read")
    steps, directions = node.tensor().shape[0], 2 if direction == "bidirectional" else 1
    if steps > _LONGEST:
        raise node.refuse(f"{steps:,} steps; at most {_LONGEST:,} are followed")
    if node.value(4) is not None and not node.whole:
        node.numbers(4)  # lengths of sequences must be known
    states = {index for index in (5, 6) if (value := node.value(index)) and value.constant and not value.tensor.any()}
    places = tuple(index for index in all_operands(node) if index != 4 and index not in states)

    def function(*tensors: Tensor) -> Any:
        operands = dict(zip(places, tensors, strict=True))
        x = operands[0]
        ends: list[list[Tensor]] = []
        results = []
        for way in range(directions):
            backwards = direction == "reverse" or way == 1
            weights = _weights(operands, way, kind, hidden)
            first = [operands[k][way] if k in operands else _start(x, hidden) for k in (5, 6)]
            outputs, end = _run(kind, x, first, weights, backwards)
            results.append(outputs)
            ends.append(end)
        return torch.stack(results, 1), *(torch.stack(list(parts)) for parts in zip(*ends, strict=True))

    return Plan(function, places)


def _start(x: Tensor, hidden: int) -> Tensor:
    # The first state is a value like any later one, as it is in a module; without values any will do.
    return x[0, :, :1].expand(-1, hidden) if x.is_meta else x.new_zeros(x.shape[1], hidden)


def _weights(operands: dict[int, Tensor], way: int, kind: str, hidden: int) -> list[Tensor]:
    def sorted_gates(tensor: Tensor) -> Tensor:
        parts = tensor.split(hidden)
        order = _GATES[kind]
        return tensor if len(order) == 1 else torch.cat([parts[gate] for gate in order])

    matrices = [sorted_gates(operands[place][way]) for place in (1, 2)]
    if 3 in operands:
        matrices += [sorted_gates(half) for half in operands[3][way].chunk(2)]
    return matrices


def _run(
    kind: str, x: Tensor, first: list[Tensor], weights: list[Tensor], backwards: bool
) -> tuple[Tensor, list[Tensor]]:
    outputs: list[Tensor] = []
    state, cell = first
    for values in reversed(x.unbind(0)) if backwards else x.unbind(0):
        if kind == "LSTM":
            state, cell = torch.lstm_cell(values, [state, cell], *weights)
        elif kind == "GRU":
            state = torch.gru_cell(values, state, *weights)
        else:
            state = torch.rnn_tanh_cell(values, state, *weights)
        outputs.append(state)
    return torch.stack(outputs[::-1] if backwards else outputs), [state, cell] if kind == "LSTM" else [state]
