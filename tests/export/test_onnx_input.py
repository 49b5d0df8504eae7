"""What enters an ONNX file: pixels as they are, or normalized images; values of another range are never answered."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("onnxscript", reason="the extra onnx is not installed")

import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from netpress import api
from netpress.data import DataRecord, DataSettings, normalize
from netpress.export.graph import calls, takes_of
from netpress.export.onnx import check_onnx, export_onnx
from netpress.network import Network, create
from netpress.scoring import score
from netpress.tracing.onnx.entering import find_entrance

pytestmark = pytest.mark.slow
DOCS = Path(__file__).parents[2] / "docs" / "export.md"


def network_of(method: str = "squash", side: int = 32, channels: int = 3) -> Network:
    """A network with mean and deviations that differ, as if trained on a folder whose images became square so."""
    settings = {"blocks": [1], "width": 4, "classes": 10, "image_size": side, "channels": channels}
    mean, std = (0.2, 0.5, 0.7)[:channels], (0.1, 0.25, 0.3)[:channels]
    names = tuple(f"clásse {index}" for index in range(10))
    network = create("resnet", settings, classes=names, mean=mean, std=std, seed=3)
    asked = DataSettings(dataset="folder", image_size=side, resize=method, background=40, reduced_decoding=False)
    network.data = DataRecord(settings=asked, seed=0, checksum="")
    network.module.eval()
    return network


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Path, Path]:
    """A network, and its files of pixels and of normalized images."""
    folder, network = tmp_path_factory.mktemp("files"), network_of()
    export_onnx(network, folder / "pixels.onnx")
    export_onnx(network, folder / "normalized.onnx", takes="normalized")
    return network, folder / "pixels.onnx", folder / "normalized.onnx"


def test_pixels_give_what_normalized_images_give(files: tuple[Network, Path, Path]) -> None:
    network, pixels, normalized = files
    assert (takes_of(pixels), takes_of(normalized)) == ("pixels", "normalized")
    images = torch.randint(0, 256, (7, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    first = onnxruntime.InferenceSession(str(pixels)).run(None, {"images": images.numpy()})[0]
    values = normalize(images, network.input.mean, network.input.std)
    second = onnxruntime.InferenceSession(str(normalized)).run(None, {"images": values.contiguous().numpy()})[0]
    assert np.array_equal(first, second)
    with torch.inference_mode():
        assert np.allclose(first, network.module(values), atol=1e-5)
    for path in (pixels, normalized):
        assert check_onnx(network, path).error < 1e-5
        onnx.checker.check_model(onnx.load(str(path)), full_check=True)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.int8])
def test_other_types_are_refused_by_the_runtime(files: tuple[Network, Path, Path], kind: type) -> None:
    """So that values of 0 to 1, or normalized ones, are never taken for pixels."""
    session = onnxruntime.InferenceSession(str(files[1]))
    with pytest.raises(Exception, match=r"Unexpected input data type.*expected: \(tensor\(uint8\)\)"):
        session.run(None, {"images": np.zeros((1, 3, 32, 32), kind)})


def test_the_count_leaves_the_normalization_out_and_says_so(files: tuple[Network, Path, Path]) -> None:
    pixels, normalized = score(files[1]), score(files[2])
    for key in ("params", "operations", "score", "storage_bits", "multiplications", "additions"):
        assert getattr(pixels, key) == getattr(normalized, key)
    assert [row.name for row in pixels.rows] == [row.name for row in normalized.rows]
    (said,) = set(pixels.assumed) - set(normalized.assumed)
    assert "1 multiplication and 1 addition a value of the image, 6 stored values" in said


def entrance_of(nodes: list[Any], constants: dict[str, np.ndarray], kind: int = TensorProto.UINT8) -> tuple[int, int]:
    """How many nodes are left out of the count, and the values that they store."""
    source = helper.make_tensor_value_info("x", kind, ["n", 3, 4, 4])
    target = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    found = find_entrance(helper.make_graph(nodes, "g", [source], [target], tensors), source)
    stored = re.search(r"(\d+) stored", found.said[0]) if found.said else None
    return len(found.nodes), int(stored[1]) if stored else 0


def test_only_a_normalization_is_left_out() -> None:
    node = helper.make_node
    cast, end = node("Cast", ["x"], ["a"], to=TensorProto.FLOAT), node("Relu", ["d"], ["y"])
    one, three = np.ones((), np.float32), np.ones((1, 3, 1, 1), np.float32)
    full = np.ones((1, 3, 4, 4), np.float32)
    steps = [node("Div", ["a", "s"], ["b"]), node("Sub", ["b", "m"], ["c"]), node("Mul", ["d", "c"], ["e"])]
    whole = [cast, steps[0], steps[1], node("Div", ["c", "t"], ["d"]), end]
    assert entrance_of(whole, {"s": one, "m": three, "t": three}) == (4, 7)
    assert entrance_of(whole, {"s": one, "m": three, "t": three}, TensorProto.FLOAT) == (0, 0)
    assert entrance_of(whole, {"s": one, "m": full, "t": three}) == (2, 1)  # a value for each pixel is a layer
    assert entrance_of([cast, node("Relu", ["a"], ["y"])], {}) == (0, 0)
    turned = [cast, node("Sub", ["m", "a"], ["d"]), end]  # 1 - x is none
    assert entrance_of(turned, {"m": three}) == (0, 0)
    twice = [cast, node("Mul", ["a", "m"], ["d"]), node("Add", ["a", "d"], ["y"])]  # what is read twice is no entrance
    assert entrance_of(twice, {"m": three}) == (0, 0)
    half = [node("Cast", ["x"], ["a"], to=TensorProto.FLOAT16), *whole[1:]]
    assert entrance_of(half, {"s": one, "m": three, "t": three}) == (0, 0)


@pytest.mark.parametrize("method", ["squash", "crop", "pad"])
@pytest.mark.parametrize("takes", ["pixels", "normalized"])
@pytest.mark.parametrize("channels", [3, 1])
def test_the_lines_that_are_printed_give_what_predict_gives(
    method: str, takes: Any, channels: int, tmp_path: Path
) -> None:
    network = network_of(method, side=16, channels=channels)
    export_onnx(network, tmp_path / "n.onnx", takes)
    pixels = np.random.default_rng(7).integers(0, 256, (21, 50, 3)).astype(np.uint8)
    Image.fromarray(pixels).resize((500, 210)).save(tmp_path / "p.png")
    session = onnxruntime.InferenceSession(str(tmp_path / "n.onnx"))
    names: dict[str, Any] = {"session": session, "image": Image.open(tmp_path / "p.png")}
    exec("import json, numpy\nfrom PIL import Image, ImageOps", names)
    lines = calls(network, takes)
    exec(f"{lines['pixels']}\n{lines['call']}\nanswer = {lines['class']}", names)
    (wanted,) = api.predict(network, tmp_path / "p.png", top=10)
    assert names["answer"] == wanted.best.label
    shares = np.exp(names["logits"][0]) / np.exp(names["logits"][0]).sum()
    best = max(guess.probability for guess in wanted.guesses)
    assert shares.max() == pytest.approx(best, rel=1e-4)
    said = {entry.key: entry.value for entry in onnx.load(str(tmp_path / "n.onnx")).metadata_props}
    assert json.loads(said["resize"]) == {"size": [16, 16], "method": method, "filter": "bilinear", "background": 40}
    assert json.loads(said["classes"]) == list(network.classes) and "clásse 3" in said["classes"]
    assert ("uint8" in said["input"]) == (takes == "pixels")


def test_the_program_in_the_docs_answers_as_netpress_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five lines that need neither netpress nor torch, on a photograph that is not square."""
    monkeypatch.chdir(tmp_path)
    network = network_of()
    export_onnx(network, "digits.onnx")
    program = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[1]
    assert "netpress" not in program and "torch" not in program
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((120, 90)).save("photo.png")
        exec(compile(program, "export.md", "exec"), {})
        (wanted,) = api.predict(network, "photo.png")
        assert capsys.readouterr().out.strip() == wanted.best.label


def test_the_command_ends_with_how_to_call_the_file(call: Any, tmp_path: Path) -> None:
    code, out, _ = call("export", "onnx", "resnet:blocks=[1],width=4,image_size=16", "--out", "n.onnx", "--no-check")
    lines = out.splitlines()
    assert code == 0 and [line.split()[0] for line in lines] == ["file", "input", "pixels", "call", "class"]
    assert "uint8 [count, 3, 16, 16], 0 to 255" in lines[1] and '{"images": pixels}' in lines[3]
    code, out, err = call("export", "onnx", "resnet", "--out", "n.onnx", "--input", "floats")
    assert (code, err) == (2, "netpress: --input floats: there are pixels and normalized\n")
