"""Network files whose checksum is right and whose description is not: 200 of them, none accepted."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_network import forge
from test_quantized_files import images, quantized
from torch import Tensor

from netpress.errors import Failure, NetpressError
from netpress.evaluation import evaluate, evaluate_exactly
from netpress.network import copy, create, describe, inspect_file, load, save
from netpress.scoring import score

pytestmark = pytest.mark.slow

Values = dict[str, Any]
Tensors = dict[str, Tensor]
Forgery = Callable[[random.Random, Values, Tensors], str]
DATA = {"settings": {"dataset": "digits"}, "seed": 0, "checksum": "0" * 64}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A pruned network of 8-bit integers, with facts."""
    folder = tmp_path_factory.mktemp("file")
    network = quantized("int8", folder, pruned=0.5)
    network.facts = {"accuracy": 0.5, "dataset": "digits", "images": 360}
    save(network, folder / "q.netpress")
    return (folder / "q.netpress").read_bytes()


def put(inside: Any, *keys_and_value: Any) -> str:
    *keys, last, value = keys_and_value
    for key in keys:
        inside = inside[key]
    inside[last] = value
    return f"{'.'.join(map(str, [*keys, last]))} = {str(value)[:40]}"


NO_SIZE = [10**12, 10**400, -5, 0, True, 16.0, 16.5, "16", None, [16], {}, 15, 17]
NO_TEXT = [None, 3, 2.5, True, [], ["a"], {}, ""]
NO_TABLE = [None, 3, "x", True, [], [["a", 1]], 0.5]
NO_LIST = [None, 3, "0123456789", True, {}, {"0": "0"}]
NOT_FINITE = [float("nan"), float("inf"), float("-inf")]


def wrong_input(rng: random.Random, values: Values, tensors: Tensors) -> str:
    if rng.random() < 0.4:
        return put(values, "input", rng.choice(["channels", "height", "width"]), rng.choice(NO_SIZE))
    name, bad = rng.choice(["mean", "std"]), [*NOT_FINITE, "0.5", None, True, [0.5], 1e300]
    bad += [0, 0.0, -0.25, 1e-300] if name == "std" else []
    whole = [[], [0.5] * 4, [0.5], "0.5", 0.5, None, {}]
    if rng.random() < 0.3:
        return put(values, "input", name, rng.choice(whole))
    return put(values, "input", name, rng.randrange(3), rng.choice(bad))


def wrong_classes(rng: random.Random, values: Values, tensors: Tensors) -> str:
    count = len(values["classes"])
    whole = [*NO_LIST, [], list("012"), [str(i) for i in range(count + 1)], ["same"] * count, [0] * count]
    if rng.random() < 0.5:
        return put(values, "classes", rng.choice(whole))
    return put(values, "classes", rng.randrange(count), rng.choice([*NO_TEXT, "x" * 5000]))


def wrong_facts(rng: random.Random, values: Values, tensors: Tensors) -> str:
    name, bad = rng.choice(
        [
            ("accuracy", [5, 1.01, -0.1, "high", [0.5], True, *NOT_FINITE]),
            ("images", [-1, 1.5, "360", [], True]),
            ("dataset", [3, [], {}, "", True]),
            ("note", [[], {}, ["a"], {"a": {"b": 1}}, *NOT_FINITE]),
        ]
    )
    return (
        put(values, "facts", rng.choice(NO_TABLE))
        if rng.random() < 0.2
        else put(values, "facts", name, rng.choice(bad))
    )


def wrong_formats(rng: random.Random, values: Values, tensors: Tensors) -> str:
    name = rng.choice(sorted(values["formats"]))
    how = rng.randrange(4)
    if how == 0:
        return put(values, "formats", rng.choice(NO_TABLE))
    if how == 1:
        return put(values, "formats", name, rng.choice([*NO_TABLE, {}, {"kind": "int99"}, {"kind": "int", "bits": 99}]))
    if how == 2:
        return put(values, "formats", rng.choice(["nowhere", "stem.conv.nothing", "a.input", ""]), {"kind": "float16"})
    name = rng.choice([name for name in values["formats"] if name.endswith((".weight", ".input", "_scale"))])
    if "stem.norm" in name:
        name = "stem.conv.weight"
    return put(values, "formats", name, {"kind": "fixed", "bits": 11})


def wrong_architecture(rng: random.Random, values: Values, tensors: Tensors) -> str:
    architecture = values["architecture"]
    how = rng.randrange(6)
    if how == 0:
        return put(architecture, "family", rng.choice([*NO_TEXT, "resnext", "densenet", "os"]))
    if how == 1:
        return put(architecture, "settings", rng.choice([*NO_TABLE, {"classes": 10, "image_size": 16, "depth": 3}]))
    if how == 2:
        name = rng.choice(["classes", "channels", "image_size", "width_factor", "expansion"])
        return put(architecture, "settings", name, rng.choice([10**12, -1, 0, "x", None, [], 1e9, 7, *NOT_FINITE]))
    if how == 3:
        bad = [
            {"kind": "explode"},
            {},
            {"kind": "fold_norms"},
            {"kind": "fold_norms", "pairs": [["a", "b"]]},
            [],
            3,
            None,
        ]
        architecture["edits"].append(rng.choice(bad))
        return f"an edit {architecture['edits'][-1]}"
    if how == 4:
        return f"without the edit {architecture['edits'].pop(rng.randrange(2))['kind']}"
    group = rng.choice(architecture["edits"][1]["groups"])
    key, bad = rng.choice(
        [("layers", [None, "stem.conv", ["nowhere"], [3], {}]), ("formats", [*NO_TABLE, {"weight": 8}])]
    )
    return put(group, key, rng.choice(bad))


def wrong_entry(rng: random.Random, values: Values, tensors: Tensors) -> str:
    entries = values["tensors"]
    name = rng.choice(sorted(entries))
    how = rng.randrange(6)
    if how == 0:
        return put(values, "tensors", rng.choice(NO_TABLE))
    if how == 1:
        return put(entries, name, rng.choice([*NO_TABLE, {}, {"shape": entries[name]["shape"], "size": 3}]))
    if how == 2:
        return put(
            entries, name, "shape", rng.choice([None, 3, "3", {}, [-1], [2**70], [10**6] * 3, [1.5], ["3"], [1] * 40])
        )
    if how == 3:
        return put(
            entries, name, "dtype", rng.choice(["float64", "complex64", "load", "Tensor", "", None, 3, [], "int16"])
        )
    if how == 4:
        return put(entries, name, "constant", rng.choice(["0", [0.0], {}, 1e300, 2**80, *NOT_FINITE]))
    if rng.random() < 0.5:
        del entries[name]
        return f"no entry {name}"
    return put(entries, rng.choice(["more", "stem", "stem.conv.weight2"]), {"shape": [1], "constant": 0.0})


def wrong_whole(rng: random.Random, values: Values, tensors: Tensors) -> str:
    if rng.random() < 0.3:
        del values[name := rng.choice(sorted(set(values) - {"checksum", "data"}))]
        return f"no {name}"
    key, value = rng.choice(
        [
            ("version", rng.choice([0, 2, "1", True, 1.0, None, [1]])),
            ("more", 1),
            ("data", rng.choice([[], 3, {}, DATA | {"seed": -1}, DATA | {"checksum": 5}, DATA | {"more": 1}])),
            ("data", DATA | {"settings": rng.choice([[], {"dataset": "nonsense"}, {"validation": 2}, {"more": 1}])}),
        ]
    )
    return put(values, key, value)


def wrong_tensor(rng: random.Random, values: Values, tensors: Tensors) -> str:
    floats = [name for name in sorted(tensors) if tensors[name].is_floating_point()]
    name = rng.choice(sorted(tensors))
    how = rng.randrange(6)
    if how == 0:
        name = rng.choice(floats)
        tensors[name].view(-1)[rng.randrange(tensors[name].numel())] = bad = rng.choice(NOT_FINITE)
        return f"{name} has {bad}"
    if how == 1:
        other = rng.choice([torch.float64, torch.int32, torch.bfloat16])
        tensors[name] = tensors[name].to(other)
        return f"{name} is {other}"
    if how == 2:
        tensors[name] = tensors[name].reshape(-1)[:-1].clone()
        return f"{name} is cut"
    if how == 3:
        tensors[name] = tensors[name][None].clone()
        return f"{name} has a dimension more"
    if how == 4:
        del tensors[name]
        return f"no tensor {name}"
    name = rng.choice([name for name in floats if "_scale" in name])
    tensors[name] = torch.full_like(tensors[name], rng.choice([0.0, -1.0]))
    return f"{name} is not above zero"


FORGERIES: list[Forgery] = [
    *(wrong_input, wrong_classes, wrong_facts, wrong_formats, wrong_architecture),
    *(wrong_entry, wrong_whole, wrong_tensor),
]


def test_what_is_forged_here_is_accepted_as_it_was(file: bytes, tmp_path: Path) -> None:
    """The test below would mean nothing if writing a file again were what is refused."""
    path = tmp_path / "q.netpress"
    path.write_bytes(file)
    forge(path, lambda values, tensors: put(values, "data", DATA))
    assert describe(path)["data"] == DATA
    assert load(path).facts["images"] == 360


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.__name__)
def test_forged_files_are_refused_in_one_line(forgery: Forgery, file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "q.netpress"
    for seed in range(25):  # of each of the eight
        path.write_bytes(file)
        told: list[str] = []
        forge(path, lambda values, tensors, seed=seed: told.append(forgery(random.Random(seed), values, tensors)))  # noqa: B023
        with pytest.raises(NetpressError) as caught:
            pytest.fail(f"{seed}: accepted: {told[0]} {load(path).facts}")
        said = str(caught.value)
        assert said.startswith(str(path)) and said.isprintable() and len(said) < 1000, (told, said)
        for read in (describe, inspect_file):  # these look at less, and may find nothing
            try:
                read(path)
            except NetpressError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("words", [["inspect"], ["score"], ["evaluate"], ["evaluate", "--exact"]])
def test_commands_refuse_them_in_one_line(
    words: list[str], call: Callable[..., tuple[int, str, str]], file: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "q.netpress"
    for change in (("input", "height", 10**12), ("facts", "accuracy", 5), ("classes", ["\x1b[2J"] * 10)):
        path.write_bytes(file)
        forge(path, lambda values, tensors, change=change: put(values, *change))
        code, out, err = call(*words, path.name)
        assert (code, out) == (1, "") and len(err.splitlines()) == 1 and err.strip().isprintable()


def test_names_from_a_file_move_no_cursor(
    call: Callable[..., tuple[int, str, str]], file: bytes, tmp_path: Path
) -> None:
    """A tensor may be called anything in a file that is only inspected; markup and escapes are shown, not followed."""
    path = tmp_path / "q.netpress"
    path.write_bytes(file)
    name = "[red]a[/b]\x1b[2J\x07"
    forge(path, lambda values, tensors: put(values, "tensors", name, {"shape": [3], "constant": 0.5}))
    code, out, _ = call("inspect", path.name)
    assert code == 0
    assert r"[red]a[/b]\x1b[2J\x07" in "".join(out.split())
    assert all(letter.isprintable() or letter == "\n" for letter in out)


# --- weights that are no numbers


def broken(name: str, value: float) -> Any:
    network = create("wide_resnet", {"classes": 10, "image_size": 16, "depth": 10, "width": 1}, seed=5)
    network.module.state_dict()[name].view(-1)[1] = value
    return network


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("name", ["stem.weight", "norm.running_mean", "classifier.bias"])
def test_values_that_are_no_numbers_are_refused_by_name(name: str, value: float, tmp_path: Path) -> None:
    network = broken(name, value)
    for use in (lambda: evaluate(network, images(4, 16)), lambda: save(network, tmp_path / "n.netpress")):
        with pytest.raises(Failure, match=rf"{name}: 1 of its [\d,]+ values"):
            use()
    assert not (tmp_path / "n.netpress").exists()


def test_answers_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    network = broken("stem.weight", 1.0)
    for name in ("classifier.weight", "norm.bias"):
        network.module.state_dict()[name].fill_(3e38)  # finite, and their products are not
    network.module.state_dict()["classifier.weight"][:, ::2] *= -1
    with pytest.raises(Failure, match="answers NaN"):
        evaluate(network, images(4, 16))
    grown = quantized("fixed-9-12", tmp_path, "densenet")
    grown.module.state_dict()["blocks.0.conv2.input_scale"].fill_(2.0**127)
    with pytest.raises(Failure, match="NaN: "):
        evaluate_exactly(grown, images(4, 16))


def test_a_variance_below_zero_is_refused(tmp_path: Path) -> None:
    save(broken("norm.running_var", -1.0), tmp_path / "n.netpress")
    with pytest.raises(Failure, match=r"norm\.running_var"):
        load(tmp_path / "n.netpress")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"facts": {"accuracy": 5}}, "facts.accuracy"),
        ({"facts": {"when": [2026]}}, "facts.when"),
        ({"classes": ("a",) * 10}, "classes"),
        ({"classes": ("a", "b")}, "classes"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    network = create("wide_resnet", {"classes": 10, "image_size": 16, "depth": 10, "width": 1}, seed=5)
    vars(network).update(change)
    with pytest.raises(Failure, match="cannot be saved") as caught:
        save(network, tmp_path / "n.netpress")
    assert told in str(caught.value) and not (tmp_path / "n.netpress").exists()


def test_a_network_of_other_numbers_or_layers_is_not_saved(tmp_path: Path) -> None:
    network = create("wide_resnet", {"classes": 10, "image_size": 16, "depth": 10, "width": 1}, seed=5)
    norm = torch.nn.BatchNorm2d(3)
    changes: list[Callable[[Any], object]] = [
        *(torch.nn.Module.double, torch.nn.Module.half),
        lambda module: module.add_module("another", norm),
    ]
    for change in changes:
        changed = copy(network)
        change(changed.module)
        with pytest.raises(Failure, match="cannot be saved"):
            save(changed, tmp_path / "n.netpress")


def test_facts_of_ones_own_come_back(tmp_path: Path) -> None:
    network = create("wide_resnet", {"classes": 10, "image_size": 16, "depth": 10, "width": 1}, seed=5)
    network.facts = {"accuracy": 1, "note": "né", "tries": 3, "kept": True, "score": 0.25, "by": None}
    save(network, tmp_path / "n.netpress")
    assert json.dumps(load(tmp_path / "n.netpress").facts) == json.dumps(network.facts)
    assert score(load(tmp_path / "n.netpress")).accuracy == 1
