"""Mutants of ordinary files that keep their structure: parts are repeated, resized, nested, moved, cut and altered."""

import random
import struct
from collections.abc import Iterator, Sequence

from loadtests.fuzz.files import Seed

MOST_BYTES = 4 * 2**20
"""No mutant is larger: it is what small files can do that is looked for."""
_VALUES = (
    0,
    1,
    2,
    3,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0x100,
    7071,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    2**31 - 1,
    2**31,
    2**32 - 1,
)
_TIMES = (2, 3, 10, 99, 1_000, 20_000)


def mutants(files: Sequence[Seed], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield so many mutants with the format each comes from; the same for the same seed."""
    chance = random.Random(seed)
    for number in range(count):
        origin = files[number % len(files)]
        parts = list(origin.parts)
        for _ in range(chance.choice((1, 1, 2, 4))):
            chance.choice(_OPERATIONS)(parts, chance, files)
        data = origin.join(parts) if parts else b""
        if chance.random() < 0.1:
            data = data[: chance.randrange(len(data) + 1)]
        yield origin.name, data[:MOST_BYTES]


def _repeat(parts: list[bytes], chance: random.Random, files: Sequence[Seed]) -> None:
    place = _place(parts, chance)
    times = min(chance.choice(_TIMES), MOST_BYTES // max(1, len(parts[place])))
    parts[place : place + 1] = [parts[place]] * max(1, times)


def _resize(parts: list[bytes], chance: random.Random, files: Sequence[Seed]) -> None:
    """Put a telling number in the place of one of 1, 2 or 4 bytes."""
    place = _place(parts, chance)
    part, size, order = parts[place], chance.choice((1, 2, 4)), chance.choice("<>")
    if len(part) >= size:
        start = chance.randrange(len(part) - size + 1)
        if chance.random() < 0.7:
            start = min(start, 16)  # where sizes are
        number = chance.choice(_VALUES) % 2 ** (8 * size)
        field = struct.pack(order + {1: "B", 2: "H", 4: "I"}[size], number)
        parts[place] = part[:start] + field + part[start + size :]


def _nest(parts: list[bytes], chance: random.Random, files: Sequence[Seed]) -> None:
    """Put a part of some file, or a whole file, inside a part."""
    other = chance.choice(files)
    inner = other.join(other.parts) if chance.random() < 0.3 else chance.choice(other.parts)
    place = _place(parts, chance)
    start = chance.randrange(len(parts[place]) + 1)
    parts[place] = parts[place][:start] + inner + parts[place][start:]


def _hide(parts: list[bytes], chance: random.Random, files: Sequence[Seed]) -> None:
    """Put some parts in what looks like a segment of a JPEG, of a marker that no decoder knows."""
    start = _place(parts, chance)
    end = chance.randrange(start, len(parts)) + 1
    inner = b"".join(parts[start:end])[: 2**16 - 3]
    parts[start:end] = [b"\xff\x02" + struct.pack(">H", 2 + len(inner)) + inner]


def _move(parts: list[bytes], chance: random.Random, files: Sequence[Seed]) -> None:
    parts.insert(_place(parts, chance), parts.pop(_place(parts, chance)))


def _leave_out(parts: list[bytes], chance: random.Random, files: Sequence[Seed]) -> None:
    if len(parts) > 2:
        del parts[_place(parts, chance)]


def _alter(parts: list[bytes], chance: random.Random, files: Sequence[Seed]) -> None:
    place = _place(parts, chance)
    part = bytearray(parts[place])
    for _ in range(chance.choice((1, 2, 8))):
        if part:
            part[chance.randrange(len(part))] = chance.randrange(256)
    parts[place] = bytes(part)


def _place(parts: list[bytes], chance: random.Random) -> int:
    """Return the index of a part, seldom that of the first, by which a file is told apart."""
    return chance.randrange(1, len(parts)) if len(parts) > 1 and chance.random() < 0.95 else 0


_OPERATIONS = (_repeat, _repeat, _resize, _resize, _resize, _nest, _hide, _move, _leave_out, _alter)
