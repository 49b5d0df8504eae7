"""Counts what a pickle would do, before anything runs it.

A pickle is a program for a small stack machine. A few bytes of it can ask for a table of a billion objects, or nest
tuples until Python's stack ends. So its operations are read first, without their data, and counted: how many there
are, and how much they could make. This takes almost no memory, and no more time than OPERATIONS operations need.
"""

import pickletools
from collections.abc import Collection
from dataclasses import dataclass, field

OPERATIONS = 2_000_000  # CIFAR-100, the largest that is read here, takes 500 thousand
LOOSE_TUPLES = 10_000  # that no call takes at once: shapes, states; so deep can they be nested at most
LONGEST_INTEGER = 8  # bytes

_CONTAINERS = """
PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG1 BINFLOAT FLOAT
STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8
EMPTY_LIST APPEND APPENDS LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS
PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD
"""
CONTAINERS = frozenset(_CONTAINERS.split())
"""Operations that make plain values and call what GLOBAL names. Sets, objects outside the file and buffers are not."""

_TUPLES = frozenset(["TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"])
_PUTS = frozenset(["PUT", "BINPUT", "LONG_BINPUT"])
_INTEGERS = frozenset(["BININT", "BININT1", "BININT2"])
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_ARGUMENTS = {ord(op.code): (op.name, op.arg.n if op.arg is not None else 0) for op in pickletools.opcodes}


@dataclass
class Program:
    """What the operations of one pickle come to."""

    end: int = 0
    """Where in the data the next byte after it is."""
    counts: dict[str, int] = field(default_factory=dict)
    """How often each operation stands there, by its name in `pickletools`."""
    names: set[str] = field(default_factory=set)
    """What GLOBAL asks for, as `module name`."""
    largest: int = 0
    """The largest integer that it states."""


def read_program(data: bytes, start: int = 0, allowed: Collection[str] = CONTAINERS) -> Program:
    """The program that begins at `start`, up to its STOP.

    Raises ValueError where it is cut short, has an operation that is not allowed, or asks for more than any file
    of data needs: too many operations, remembered objects numbered beyond their count, long integers, nested tuples.
    """
    program = Program()
    counts, place, size, done, loose = program.counts, start, len(data), 0, 0
    before = ""
    while True:
        if place >= size:
            raise ValueError("cut short")
        name, kind = _ARGUMENTS.get(data[place], ("", 0))
        if name not in allowed:
            raise ValueError(f"the operation {name or data[place]} at byte {place} has no place here")
        done += 1
        if done > OPERATIONS:
            raise ValueError(f"more than {OPERATIONS:,} operations")
        argument = place + 1
        if kind >= 0:
            place = argument + kind
        elif kind == pickletools.UP_TO_NEWLINE:
            place = _after_lines(data, argument, 2 if name == "GLOBAL" else 1)
        else:
            width = _LENGTHS[kind]
            place = argument + width + int.from_bytes(data[argument : argument + width], "little")
        if place > size:
            raise ValueError("cut short")
        counts[name] = counts.get(name, 0) + 1
        if name == "MEMOIZE":
            continue  # between a tuple and the call that takes it
        if name in _PUTS:
            index = int(data[argument:place]) if name == "PUT" else int.from_bytes(data[argument:place], "little")
            if not 0 <= index <= done:
                raise ValueError(f"it numbers a remembered object {index:,}, after {done:,} operations")
            continue
        if name in _INTEGERS:
            stated = int.from_bytes(data[argument:place], "little", signed=name == "BININT")
            program.largest = max(program.largest, stated)
        elif name in ("INT", "LONG1"):
            if place - argument > 20 or (name == "LONG1" and place - argument > LONGEST_INTEGER + 1):
                raise ValueError("an integer beyond 64 bits")
            text = data[argument:place]
            stated = int(text) if name == "INT" else int.from_bytes(text[1:], "little", signed=True)
            program.largest = max(program.largest, stated)
        elif name == "GLOBAL":
            program.names.add(data[argument:place].decode("latin1").strip().replace("\n", " "))
        if before in _TUPLES and name != "REDUCE":
            loose += 1
            if loose > LOOSE_TUPLES:
                raise ValueError(f"more than {LOOSE_TUPLES:,} tuples that no call takes")
        if name == "REDUCE" and before not in _TUPLES and before != "EMPTY_TUPLE":
            raise ValueError("a call of something else than a tuple made for it")
        before = name
        if name == "STOP":
            program.end = place
            return program


def _after_lines(data: bytes, place: int, count: int) -> int:
    for _ in range(count):
        place = data.find(b"\n", place) + 1
        if place == 0:
            raise ValueError("cut short")
    return place
