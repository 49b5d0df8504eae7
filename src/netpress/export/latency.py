"""How long a network takes for an image, by every way there is of calculating it here.

    latencies = measure_latencies(network, threads=(1, 2))
    latencies.rows[0].path, latencies.rows[0].median      # "C, avx2", seconds an image

Each way begins at the pixels as they are, uint8, and ends at the logits. They are measured in one run, in turns, so
that what else the machine does meets all of them.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from netpress.data import normalize
from netpress.errors import NetpressError, UserError
from netpress.evaluation.accuracy import evaluation_mode
from netpress.evaluation.exact import integer_layers
from netpress.export.c.building import FLAGS
from netpress.export.c.calling import check_images, load_kernels
from netpress.export.onnx import export_onnx, open_session
from netpress.network import Network, copy
from netpress.network.edits import replace_module
from netpress.numerics.layers import QuantizedLayer, quantized_layers
from netpress.process.console import Console
from netpress.process.devices import available_cores, processor_name
from netpress.program import execute, lower

ROUNDS = 10  # turns of each way
MOST_THREADS, LARGEST_BATCH = 1024, 4096

Answer = Callable[[Tensor], object]  # of uint8 [batch, channels, height, width]


@dataclass(frozen=True)
class Latency:
    """Of one way to calculate the network, with one number of threads. Seconds an image."""

    path: str
    threads: int
    median: float
    low: float
    """A quarter of the calls were faster."""
    high: float
    """A quarter of the calls were slower."""
    least: float
    """Of the fastest call, the best guess of a machine without other work."""
    calls: int
    ready: float
    """Seconds until it gave its first answer: exporting, compiling or loading."""


@dataclass(frozen=True)
class Latencies:
    """What was measured, the fastest first of each number of threads."""

    rows: tuple[Latency, ...]
    left_out: tuple[tuple[str, str], ...]
    """What this network or this machine does not allow, and why."""
    batch: int
    """Images a call."""
    processor: str
    cores: int
    """That this process may use."""

    def as_json(self) -> dict[str, Any]:
        """A dict of plain values."""
        told = asdict(self)
        told["left_out"] = [{"path": path, "reason": reason} for path, reason in self.left_out]
        return told


def measure_latencies(
    network: Network,
    *,
    threads: Sequence[int] = (1,),
    batch: int = 1,
    seconds: float = 10.0,
    console: Console | None = None,
) -> Latencies:
    """Measure every way that there is: torch in float32, simulating and in exact integers; C; ONNX Runtime.

    threads: one measurement of `seconds` for each; they share the images of a `batch` in C, and an image elsewhere.
    Raises UserError for numbers out of range.
    """
    if not 1 <= batch <= LARGEST_BATCH:
        raise UserError(f"--batch {batch}: must be 1 to {LARGEST_BATCH:,} images")
    if not threads or not all(1 <= count <= MOST_THREADS for count in threads):
        raise UserError(f"--threads {','.join(map(str, threads))}: must be 1 to {MOST_THREADS:,} each")
    if not 0 < seconds < float("inf"):
        raise UserError(f"--seconds {seconds}: must be above 0, and finite")
    console = console or Console(quiet=True)
    pixels = check_images(network, batch)
    rows: list[Latency] = []
    left_out: dict[str, str] = {}
    with TemporaryDirectory() as folder, torch.inference_mode(), evaluation_mode(network.module), _threads_kept():
        ways = _Ways(network, Path(folder), console)
        for count in threads:
            torch.set_num_threads(count)
            found, missing = _prepare(ways, pixels)
            left_out |= missing
            rows += _measure(found, pixels, seconds, count)
    return Latencies(tuple(rows), tuple(left_out.items()), batch, processor_name(), available_cores())


@contextmanager
def _threads_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Ways:
    """The ways to calculate a network, each made when it is asked for."""

    def __init__(self, network: Network, folder: Path, console: Console) -> None:
        self.network, self.folder, self.console = network, folder, console
        self.floats = _in_floats(network)
        self.normalize = partial(normalize, mean=network.input.mean, std=network.input.std)

    def all(self) -> dict[str, Callable[[], Answer]]:
        """What makes each, by its name; of one that cannot be, it raises a NetpressError."""
        ways: dict[str, Callable[[], Answer]] = {"torch, float32": lambda: self._module(self.floats)}
        if quantized_layers(self.network.module):
            ways["torch, simulated integers"] = lambda: self._module(self.network)
        ways["torch, exact integers"] = self._exact
        ways["C"] = lambda: self._kernels(FLAGS)
        ways["C, portable"] = lambda: self._kernels((*FLAGS, "-DNET_PORTABLE"))
        ways["ONNX Runtime, float32"] = lambda: self._session(self.floats, "float.onnx")
        if quantized_layers(self.network.module):
            ways["ONNX Runtime, QDQ int8"] = lambda: self._session(self.network, "integers.onnx")
        return ways

    def _module(self, network: Network) -> Answer:
        return lambda pixels: network.module(self.normalize(pixels))

    def _exact(self) -> Answer:
        integer_layers(self.network)
        program = lower(self.network)
        return lambda pixels: execute(program, self.normalize(pixels))

    def _kernels(self, flags: Sequence[str]) -> Answer:
        return load_kernels(
            self.network,
            flags,
            lambda compiler: self.console.say(f"compiling by {compiler.said} {' '.join(flags)} ..."),
        )

    def _session(self, network: Network, name: str) -> Answer:
        path = self.folder / name
        if not path.exists():
            self.console.say(f"exporting {name} ...")
            export_onnx(network, path)
        return open_session(path)


def _in_floats(network: Network) -> Network:
    """The network's layers as plain float32."""
    made = copy(network)
    made.module.cpu().eval()
    for name, layer in quantized_layers(made.module).items():
        replace_module(made.module, name, _plain(layer))
    return made


def _plain(layer: QuantizedLayer) -> nn.Module:
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    has_bias = layer.bias is not None
    if isinstance(layer, nn.Conv2d):
        sizes = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        plain: nn.Module = nn.Conv2d(*sizes, layer.groups, has_bias, layer.padding_mode)  # type: ignore[arg-type]
    else:
        plain = nn.Linear(layer.in_features, layer.out_features, has_bias)
    plain.load_state_dict({name: value for name, value in layer.state_dict().items() if name in ("weight", "bias")})
    return plain.eval()


@dataclass
class _Contender:
    path: str
    answer: Answer
    ready: float
    times: list[float]
    """Seconds of each call."""


def _prepare(ways: _Ways, pixels: Tensor) -> tuple[list[_Contender], dict[str, str]]:
    """Those that there are, each after its first answer, and why others are left out."""
    found: dict[str, _Contender] = {}
    missing: dict[str, str] = {}
    for path, make in ways.all().items():
        if path == "C, portable" and ("C" in missing or path in found):
            continue  # there is no C, or no other than this
        start = time.perf_counter()
        try:
            answer = make()
            answer(pixels)
        except NetpressError as error:
            missing[path] = str(error)
            continue
        named = f"C, {getattr(answer, 'path', '')}" if path == "C" else path
        found[named] = _Contender(named, answer, time.perf_counter() - start, [])
    return list(found.values()), missing


def _measure(contenders: list[_Contender], pixels: Tensor, seconds: float, threads: int) -> list[Latency]:
    turn = seconds / (ROUNDS * len(contenders))
    for _ in range(ROUNDS):
        for contender in contenders:
            contender.answer(pixels)  # what it reads lies in the caches again, and the others' threads sleep
            until = time.perf_counter() + turn
            start = 0.0
            while start < until:
                start = time.perf_counter()
                contender.answer(pixels)
                contender.times.append(time.perf_counter() - start)
    rows = [_summarize(contender, threads, len(pixels)) for contender in contenders]
    return sorted(rows, key=lambda row: row.median)


def _summarize(contender: _Contender, threads: int, batch: int) -> Latency:
    times = [seconds / batch for seconds in contender.times]
    low, median, high = statistics.quantiles(times, n=4)
    return Latency(contender.path, threads, median, low, high, min(times), len(times), contender.ready)
