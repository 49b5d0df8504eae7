"""How fast a network's C is beside ONNX Runtime: one thread, one image at a time.

    python benchmarks/shipping.py [--network FILE] [--rounds 30] [--json FILE]

Four sides take turns, in rounds of many runs each:

    portable   the C file's portable path, -O3 -march=native -DNAME_PORTABLE
    vectors    the same file's path in vectors of this processor, -O3 -march=native
    float32    the same architecture in floats, norms folded, in ONNX Runtime (weights drawn: they cost no time)
    QDQ        the network itself in 8-bit integers behind QuantizeLinear and DequantizeLinear, in ONNX Runtime

Time is of the processor, so that other jobs count less. A round's figure is the mean of its runs; the table has the
median of the rounds, half of which lie within the spread. Both paths of the C must give the same logits. A network of
other arithmetic is made one of integers first, its scales chosen on random images, which changes no time.
"""

import argparse
import ctypes
import json
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch

from netpress.compression.quantization.settings import QuantizeSettings
from netpress.compression.quantize import quantize
from netpress.data import Dataset, Images
from netpress.export.c import export_c
from netpress.export.onnx import export_onnx
from netpress.network import Network, create, load
from netpress.process.console import Console
from netpress.process.world import World
from netpress.program import has_integer_arithmetic
from netpress.settings import parse
from netpress.stage import Context

SHIPPED = Path(__file__).parents[1] / "networks/kaist-int/network.netpress"
BUDGET = 0.05
"""Seconds that a side runs in a round."""
GOALS = {"float32": 3.0, "QDQ": 8.0}
"""How many times as fast as ONNX Runtime vectors shall be where there is AVX-512 VNNI."""
PROGRAM = """
#include "net.h"
const char *path(void) { return NET_PATH; }
int run(const uint8_t *pixels, int32_t *logits, int times) {
    static uint64_t arena[(NET_ARENA_BYTES + 7) / 8];
    while (times--) if (net_run(arena, pixels, logits)) return 1;
    return 0;
}
"""


def in_integers(network: Network, folder: Path) -> Network:
    """The network, its scales chosen on random images where its arithmetic is another one."""
    if has_integer_arithmetic(network):
        return network
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (64, *network.input.size), generator=generator).byte()
    images = Images(pixels, torch.zeros(64, dtype=torch.int64))
    mean, std = network.input.mean, network.input.std
    data = Dataset("random", images, images, images, network.classes, mean, std, "")
    context = Context(folder, World(torch.device("cpu")), 1, Console(quiet=True), data, name="quantize")
    values = {"preset": "int8", "arithmetic": "integer", "calibration_images": 64}
    return quantize(network, parse(QuantizeSettings, values), context)


def compiled(folder: Path, name: str, *options: str) -> ctypes.CDLL:
    """The C file of `folder` as a library, with what calls it in a loop."""
    library = folder / f"{name}.so"
    flags = ["-std=gnu99", "-O3", "-march=native", "-shared", "-fPIC", *options]
    subprocess.run(["cc", *flags, "-o", library, folder / "net.c", folder / "bench.c"], check=True)
    made = ctypes.CDLL(str(library))
    made.path.restype = ctypes.c_char_p
    return made


def session(path: Path, pixels: numpy.ndarray) -> Callable[[int], None]:
    """Runs of an ONNX file on one image."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    made = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    fed = {"images": pixels}

    def run(times: int) -> None:
        for _ in range(times):
            made.run(None, fed)

    return run


def sides(network: Network, folder: Path) -> tuple[dict[str, Callable[[int], None]], str]:
    """What takes turns, and the path that this processor's vectors take."""
    network = in_integers(network, folder)
    export_c(network, folder, "net")
    (folder / "bench.c").write_text(PROGRAM, encoding="utf-8")
    libraries = {"portable": compiled(folder, "portable", "-DNET_PORTABLE"), "vectors": compiled(folder, "vectors")}
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(256, network.input.size, generator=generator).byte().numpy()
    lying = numpy.ascontiguousarray(pixels.transpose(1, 2, 0))
    found: dict[str, Callable[[int], None]] = {}
    answers = {}
    for name, library in libraries.items():
        logits = answers[name] = numpy.zeros(len(network.classes), numpy.int32)
        places = lying.ctypes.data_as(ctypes.c_void_p), logits.ctypes.data_as(ctypes.c_void_p)
        found[name] = lambda times, call=library.run, places=places: call(*places, times)
        found[name](1)
    if not numpy.array_equal(*answers.values()):
        raise SystemExit("the portable path and the one in vectors give other logits")
    floats = create(network.architecture.family, network.architecture.settings, seed=1)
    for name, made in (("float32", floats), ("QDQ", network)):
        export_onnx(made, folder / f"{name}.onnx")
        found[name] = session(folder / f"{name}.onnx", pixels[None])
    return found, libraries["vectors"].path().decode()


def measure(network: Network, rounds: int) -> dict[str, Any]:
    """Milliseconds an image of each side: the median of the rounds, and between which half of them lie."""
    with tempfile.TemporaryDirectory() as folder:
        runs, path = sides(network, Path(folder))
        times, taken = {}, {name: [] for name in runs}
        for name, run in runs.items():
            run(2)
            start = time.process_time()
            run(3)
            times[name] = max(1, int(3 * BUDGET / (time.process_time() - start)))
        for _ in range(rounds):
            for name, run in runs.items():
                start = time.process_time()
                run(times[name])
                taken[name].append((time.process_time() - start) / times[name] * 1e3)
    figures = {}
    for name, values in taken.items():
        low, median, high = statistics.quantiles(values, n=4)
        figures[name] = {"median": median, "low": low, "high": high, "least": min(values)}
    return {"processor": _processor(), "path": path, "rounds": rounds, "milliseconds": figures}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", type=Path, default=SHIPPED, help="a quantized network")
    parser.add_argument("--rounds", type=int, default=30, help="how often the sides take turns")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(load(arguments.network), arguments.rounds)
    print(f"{arguments.network.name}, {found['processor']}, vectors: {found['path']}, 1 thread, 1 image at a time")
    vectors = found["milliseconds"]["vectors"]
    for name, one in found["milliseconds"].items():
        spread = f"{one['low']:.3f} - {one['high']:.3f}"
        ratio = one["median"] / vectors["median"]
        print(f"  {name:9} {one['median']:8.3f} ms  ({spread}, least {one['least']:.3f})  {ratio:6.2f} x vectors")
    if found["path"] == "avx512vnni":
        for name, goal in GOALS.items():
            reached = found["milliseconds"][name]["median"] / vectors["median"]
            print(f"  at least {goal:.0f} times as fast as {name}: {'yes' if reached >= goal else 'NO'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
