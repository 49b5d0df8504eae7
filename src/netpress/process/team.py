"""The processes that train one network together: how they meet, talk, and end.

The first of them, the leader, does what the command says, and alone reads and writes files. The others help it: they
wait until it calls, and compute. So there is one writer, and the state of a run is that of the whole run, whatever
number of processes made it.

    team = lead(device)             in the leader; `dismiss(code)` at its end, however it ends
    code = follow(serve)            in each of the others

Words of a few bytes lie in torch's key-value store, where they outlive a connection that broke: whether the leader
begins, why a helper failed, how the leader ended. Everything else goes through torch.distributed: gloo on CPUs,
NCCL between GPUs.
"""

import io
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from importlib import metadata
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from netpress.errors import Failure, NetpressError
from netpress.process.interruption import Interrupted, Request, deferred
from netpress.process.launch import rank_and_size

NUMBERS = 8  # of a call, the command included
_PATIENCE = timedelta(days=30)  # of helpers, between trainings: the leader may prune or measure for hours
_MEETING = timedelta(minutes=5)
_LEAVING = timedelta(seconds=5)  # that the leader waits for its helpers to go
_BEGIN, _END, _FAILED, _LEFT = "begin", "end", "failed", "left"  # keys
_GO_ON = "the same command goes on from what is saved, with any number of processes"

END = 0
"""The command that sends helpers home."""


class Gone(BaseException):
    """The leader has ended: a helper has nothing left to do. Not an Exception, as `Interrupted`."""


class Team:
    """What one of the processes holds of the others.

    Each method is called by all of them at the same place. Raises Failure, in a helper Gone, where one is lost or does
    not answer in `timeout`.
    """

    def __init__(self, store: dist.Store, device: torch.device, timeout: timedelta) -> None:
        self.rank, self.size = rank_and_size()
        self.device = device
        self.store = store
        self.request: Request | None = None
        """Whether somebody asked this process to stop, in a helper."""
        self.is_busy = False
        """Whether helpers are at work on what was called last, so that they would not hear a call."""
        self.is_lost = False
        """Whether a connection broke, so that nobody is left to wait for."""
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        with self._guarded():
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=timeout)
            self._patient = dist.new_group(backend="gloo", timeout=_PATIENCE)

    @property
    def helpers(self) -> range:
        """The ranks of the others, for the leader."""
        return range(1, self.size)

    def call(self, command: int, *numbers: int) -> None:
        """Tell all helpers what comes now, with up to seven whole numbers. They are busy until the leader says no."""
        self.is_busy = True
        words = torch.tensor([command, *numbers, *[0] * (NUMBERS - 1 - len(numbers))])
        with self._guarded():
            dist.broadcast(words, 0, group=self._patient)

    def hear(self) -> list[int]:
        """Wait for the leader's next call: the command and its numbers."""
        words = torch.zeros(NUMBERS, dtype=torch.int64)
        with self._guarded():
            dist.broadcast(words, 0, group=self._patient)
        heard: list[int] = words.tolist()
        return heard

    def tell(self, thing: Any) -> None:
        """Hand any object to all helpers, its tensors to their devices."""
        buffer = io.BytesIO()
        torch.save(thing, buffer)
        data = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
        with self._guarded():
            dist.broadcast(torch.tensor([len(data)]), 0)
            dist.broadcast(data, 0)

    def listen(self) -> Any:
        """What the leader tells. It comes from the same program of the same user, so it may be any object."""
        length = torch.zeros(1, dtype=torch.int64)
        with self._guarded():
            dist.broadcast(length, 0)
            data = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(data, 0)
        return torch.load(io.BytesIO(data.numpy().tobytes()), map_location=self.device, weights_only=False)

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Give the leader's values of `tensors` to all, in place."""
        for group in _by_type(tensors):
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in group])
            with self._guarded():
                dist.broadcast(flat, 0)
            if self.rank:
                for tensor, values in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
                    tensor.detach().copy_(values.view_as(tensor))

    def sum(self, values: Tensor) -> Tensor:
        """The sum of all processes' `values`, in place, the same in each."""
        with self._guarded():
            dist.all_reduce(values)
        return values

    def collect(self, values: Tensor) -> Tensor:
        """The sum of all processes' `values` in the leader, in place."""
        with self._guarded():
            dist.reduce(values, 0)
        return values

    def send(self, values: Tensor, rank: int) -> None:
        """To one other process, which receives it."""
        with self._guarded():
            dist.send(values.contiguous(), rank)

    def receive(self, values: Tensor, rank: int) -> Tensor:
        """Fill `values`, dense, with what another process sends."""
        with self._guarded():
            dist.recv(values, rank)
        return values

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if self.rank:
                raise Gone from error
            self.is_lost = True
            raise Failure(self._explain(error)) from error

    def _explain(self, error: Exception) -> str:
        with suppress(RuntimeError):
            for rank in self.helpers:
                if self.store.check([f"{_FAILED}{rank}"]):
                    said = self.store.get(f"{_FAILED}{rank}").decode()
                    return f"process {rank + 1} of {self.size} failed: {said}"
        if "imed out" in str(error):
            return f"one of the {self.size} processes did not answer in time; {_GO_ON}"
        return f"one of the {self.size} processes is gone, killed or out of memory; {_GO_ON}"


_joined: list[Team] = []  # the team that this process leads


@cache
def _store() -> dist.Store:
    """The store of the processes that were started together: torchrun's own, or one that the leader holds."""
    rank, size = rank_and_size()
    own = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(*place, world_size=size, is_master=own, timeout=_MEETING, wait_for_workers=False)
    except (KeyError, ValueError, RuntimeError) as error:
        raise Failure(
            f"the {size} processes cannot meet ({str(error).splitlines()[0]}); start them by torchrun"
        ) from None
    run = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"netpress/{run}", store)


def lead(device: torch.device, timeout: timedelta = timedelta(minutes=30)) -> Team | None:
    """The team that this process leads; None where it was started alone. Called again, it is the same one."""
    if rank_and_size()[1] == 1:
        return None
    if not _joined:
        store = _store()
        store.set(_BEGIN, json.dumps({"device": device.type, "seconds": timeout.total_seconds(), **_versions()}))
        _joined.append(Team(store, device, timeout))
    return _joined[0]


def dismiss(code: int) -> None:
    """Send the helpers home: the leader ends with this exit code. Never raises."""
    with suppress(NetpressError, RuntimeError):
        store = _store()
        store.set(_END, str(code))
        if _joined:
            if not _joined[0].is_busy:
                _joined[0].call(END)
            dist.destroy_process_group()
        else:
            store.set(_BEGIN, json.dumps({}))
        if not (_joined and _joined[0].is_lost):
            store.wait([f"{_LEFT}{rank}" for rank in range(1, rank_and_size()[1])], _LEAVING)


def follow(serve: Callable[[Team], None]) -> int:
    """Help the leader until it ends; the exit code. `serve` gets the team and returns when it hears END."""
    rank = rank_and_size()[0]
    try:
        store = _store()
    except Failure:
        return 1
    try:
        with deferred() as request:
            code = _help(store, serve, request)
            request.number = None  # the leader was told of it
    except Interrupted as error:
        code = error.exit_code
    except Gone:
        code = _leader_code(store)
    except BaseException as error:
        code = error.exit_code if isinstance(error, NetpressError) else 1
        with suppress(RuntimeError):
            store.set(f"{_FAILED}{rank}", _describe(error))
    with suppress(RuntimeError):
        store.set(f"{_LEFT}{rank}", "")
    return code


def _help(store: dist.Store, serve: Callable[[Team], None], request: Request) -> int:
    try:
        store.wait([_BEGIN], _PATIENCE)
    except RuntimeError as error:
        raise Gone from error
    begun = json.loads(store.get(_BEGIN))
    if begun:
        own = _versions()
        if any(begun[name] != version for name, version in own.items()):
            raise Failure(f"it has {own}, the first one {begun}; install the same versions everywhere")
        if begun["device"] == "cuda":
            use_own_gpu()
        team = Team(store, torch.device(begun["device"]), timedelta(seconds=begun["seconds"]))
        team.request = request
        serve(team)
    return _leader_code(store)


def use_own_gpu() -> None:
    """Compute on the GPU of this process's number on its machine from here on, as torchrun counts them."""
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % max(1, torch.cuda.device_count()))


def _leader_code(store: dist.Store) -> int:
    """The leader's exit code; 1 where it ended without a word."""
    deadline = time.monotonic() + 1
    with suppress(RuntimeError):
        while time.monotonic() < deadline:
            if store.check([_END]):
                return int(store.get(_END))
            time.sleep(0.05)
    return 1


def _describe(error: BaseException) -> str:
    said = " ".join(str(error).split())[:300]
    return said if isinstance(error, NetpressError) else f"{type(error).__name__}: {said}"


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("netpress", "torch")}


def _by_type(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return list(groups.values())
