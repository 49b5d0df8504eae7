"""What an ONNX file has beside the layers: how pixels enter it, and what it says of itself."""

import json
from pathlib import Path
from typing import Any, Literal

from netpress import __version__
from netpress.data.batches import scale_and_shift
from netpress.network import Network
from netpress.network.data import known_rules

OUTER = "images", "logits"
"""Names of a file's input and output."""
Takes = Literal["pixels", "normalized"]
"""What a file takes: uint8 of 0 to 255, which it normalizes itself, or float32, normalized by whoever calls it."""
KINDS: dict[str, Takes] = {"pixels": "pixels", "normalized": "normalized"}


def finish(path: Path, network: Network, takes: Takes) -> None:
    """Let the file that torch wrote for normalized images take what it `takes`, and say what it is.

    What the exporter notes of each node (names of modules, stack traces with paths) is taken out.
    """
    import onnx

    model = onnx.load(str(path))
    graphs, functions = [model.graph], list(model.functions)
    while graphs:
        graph = graphs.pop()
        graphs += [entry.g for node in graph.node for entry in node.attribute if entry.HasField("g")]
        for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
            _forget(part)
    for function in functions:
        for part in (function, *function.node, *function.value_info):
            _forget(part)
    _forget(model)
    model.producer_name, model.producer_version = "netpress", __version__
    onnx.helper.set_model_props(model, describe(network, takes))
    if takes == "pixels":
        _take_pixels(model.graph, network)
    onnx.save(model, str(path))


def _forget(part: Any) -> None:
    part.ClearField("metadata_props")
    part.ClearField("doc_string")


def describe(network: Network, takes: Takes = "pixels", count: str = "count") -> dict[str, str]:
    """What an ONNX file says of itself in its own metadata: how an image enters, what the logits mean, whose it is.

    count: how many images enter at once.
    """
    spec, source, rules = network.input, network.architecture, known_rules(network)
    kind, values = ("uint8", "0 to 255") if takes == "pixels" else ("float32", "(pixel / 255 - mean) / std")
    return {
        "classes": json.dumps(network.classes, ensure_ascii=False),
        "input": f"{OUTER[0]}: {kind} [{count}, {spec.channels}, {spec.height}, {spec.width}], {values}"
        + (", channels red, green, blue" if spec.channels == 3 else "")
        + ("; the graph normalizes them" if takes == "pixels" else ""),
        "resize": json.dumps(
            {
                "size": [spec.width, spec.height],
                "method": rules.resize,
                "filter": "bilinear",
                "background": rules.background,
            }
        ),
        "mean": json.dumps(spec.mean),
        "std": json.dumps(spec.std),
        "output": f"{OUTER[1]}: one number a class, the largest is the answer",
        "source": json.dumps({"made_by": "netpress", "family": source.family, "settings": source.settings}),
        **{name: str(network.facts[name]) for name in ("dataset", "accuracy") if name in network.facts},
    }


def takes_of(path: Path) -> Takes:
    """What the file of an export takes."""
    import onnx

    (source,) = onnx.load(str(path), load_external_data=False).graph.input
    return "pixels" if source.type.tensor_type.elem_type == onnx.TensorProto.UINT8 else "normalized"


def calls(network: Network, takes: Takes = "pixels") -> dict[str, str]:
    """Python that gives a Pillow image to the file of an export: the pixels, the call, the class."""
    spec, rules = network.input, known_rules(network)
    size, bilinear = f"({spec.width}, {spec.height})", "Image.Resampling.BILINEAR"
    image = f'image.convert("{"RGB" if spec.channels == 3 else "L"}")'
    bars = rules.background if spec.channels == 1 else (rules.background,) * spec.channels
    square = {
        "squash": f"{image}.resize({size}, {bilinear})",
        "crop": f"ImageOps.fit({image}, {size}, {bilinear})",
        "pad": f"ImageOps.pad({image}, {size}, {bilinear}, {bars})",
    }[rules.resize]
    pixels = f"numpy.asarray({square})"
    pixels += ".transpose(2, 0, 1)[None]" if spec.channels == 3 else "[None, None]"
    if takes == "normalized":
        mean, std = (f"numpy.reshape({values}, (-1, 1, 1))" for values in (spec.mean, spec.std))
        pixels = f'(({pixels} / 255 - {mean}) / {std}).astype("float32")'
    return {
        "pixels": f"pixels = {pixels}",
        "call": f'(logits,) = session.run(None, {{"{OUTER[0]}": pixels}})',
        "class": 'json.loads(session.get_modelmeta().custom_metadata_map["classes"])[logits[0].argmax()]',
    }


def _take_pixels(graph: Any, network: Network) -> None:
    """Put the normalization of `netpress.data.normalize` between the graph's input, now uint8, and what reads it."""
    from onnx import TensorProto, helper, numpy_helper

    (source,) = graph.input
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == source.name:
                node.input[place] = "normalized"
    nodes = [
        helper.make_node("Cast", [source.name], ["pixels"], name="pixels", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "pixels.scale"], ["scaled"], name="scale"),
        helper.make_node("Add", ["scaled", "pixels.shift"], ["normalized"], name="shift"),
    ]
    for place, node in enumerate(nodes):
        graph.node.insert(place, node)
    tensors = scale_and_shift(network.input.mean, network.input.std)
    for name, tensor in zip(("pixels.scale", "pixels.shift"), tensors, strict=True):
        graph.initializer.append(numpy_helper.from_array(tensor.numpy(), name))
    source.type.tensor_type.elem_type = TensorProto.UINT8
