"""Damages files of a database as disks, copies and power failures do, the same ways for the same seed."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

PAGE: Final = 4096
SECTOR: Final = 512


def damage(file: Path, seed: int) -> str:
    """Damage the file in one way, one to three times. Returns the way, for a person."""
    chance = random.Random(seed)
    content = bytearray(file.read_bytes())
    done = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        way = chance.choice(WAYS)
        way(content, chance)
        done.append(way.__name__.strip("_"))
    file.write_bytes(content)
    return ", ".join(done)


def _at(content: bytearray, chance: random.Random, unit: int) -> int:
    return unit * chance.randrange(max(1, len(content) // unit))


def _zeroed_page(content: bytearray, chance: random.Random) -> None:
    place = _at(content, chance, PAGE)
    content[place : place + PAGE] = bytes(len(content[place : place + PAGE]))


def _garbage_page(content: bytearray, chance: random.Random) -> None:
    place = _at(content, chance, PAGE)
    content[place : place + PAGE] = chance.randbytes(len(content[place : place + PAGE]))


def _half_page(content: bytearray, chance: random.Random) -> None:
    """Half of it was written and half was not."""
    place = _at(content, chance, PAGE) + chance.choice((0, PAGE // 2))
    content[place : place + PAGE // 2] = bytes(len(content[place : place + PAGE // 2]))


def _garbage_sector(content: bytearray, chance: random.Random) -> None:
    place = _at(content, chance, SECTOR)
    content[place : place + SECTOR] = chance.randbytes(len(content[place : place + SECTOR]))


def _zeroed_sector(content: bytearray, chance: random.Random) -> None:
    place = _at(content, chance, SECTOR)
    content[place : place + SECTOR] = bytes(len(content[place : place + SECTOR]))


def _exchanged(content: bytearray, chance: random.Random) -> None:
    one, other = _at(content, chance, PAGE), _at(content, chance, PAGE)
    content[one : one + PAGE], content[other : other + PAGE] = (
        content[other : other + PAGE],
        content[one : one + PAGE],
    )


def _written_elsewhere(content: bytearray, chance: random.Random) -> None:
    one, other = _at(content, chance, PAGE), _at(content, chance, PAGE)
    content[one : one + PAGE] = content[other : other + PAGE]


def _cut(content: bytearray, chance: random.Random) -> None:
    del content[chance.choice((_at(content, chance, PAGE), chance.randrange(len(content) + 1))) :]


def _longer(content: bytearray, chance: random.Random) -> None:
    content += chance.randbytes(chance.choice((1, PAGE, 3 * PAGE)))


def _header(content: bytearray, chance: random.Random) -> None:
    """A byte of the database's own header, or of the log's."""
    if content:
        content[chance.randrange(min(100, len(content)))] = chance.randrange(256)


WAYS: Final[tuple[Callable[[bytearray, random.Random], None], ...]] = (
    *(_zeroed_page, _zeroed_page, _garbage_page, _half_page, _garbage_sector, _zeroed_sector, _exchanged),
    *(_written_elsewhere, _cut, _longer, _header),
)
