"""Checkpoints that something is wrong with: a field dropped, null or another type, a file cut or missing."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.model_prep.layouts.edits import read_json, write_json

OTHERS: dict[str, Any] = {
    "dropped": ...,
    "null": None,
    "a text": "nonsense",
    "a number": 7,
    "negative": -3,
    "a list": [],
    "an object": {},
}


@dataclass(frozen=True)
class Mutation:
    """One thing that is wrong; `spoil` changes a copy of the checkpoint."""

    name: str
    spoil: Callable[[Path], None]


def mutations(checkpoint: Path, count: int, seed: int) -> list[Mutation]:
    """`count` of those that the checkpoint allows; the same seed gives the same."""
    every = [*_of_files(checkpoint), *_of_fields(checkpoint)]
    return random.Random(seed).sample(every, count)


def _of_files(checkpoint: Path) -> Iterator[Mutation]:
    for path in sorted(checkpoint.iterdir()):
        for kind, spoil in FILES.items():
            yield Mutation(f"{path.name} {kind}", partial(_spoil_file, path.name, spoil))


def _of_fields(checkpoint: Path) -> Iterator[Mutation]:
    for path in sorted(checkpoint.glob("*.json")):
        for place in _places(read_json(path)):
            for kind, value in OTHERS.items():
                name = f"{path.name} {'.'.join(place)} {kind}"
                yield Mutation(name, partial(_set, path.name, place, value))


def _places(content: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every field, and those within it down to a second one; of a vocabulary none."""
    if not isinstance(content, dict) or len(content) > 60:
        return
    for key, value in content.items():
        yield (*above, key)
        if len(above) < 1:
            yield from _places(value, (*above, key))


def _set(name: str, place: tuple[str, ...], value: Any, folder: Path) -> None:
    content = read_json(folder / name)
    within = content
    for key in place[:-1]:
        within = within[key]
    if value is ...:
        del within[place[-1]]
    else:
        within[place[-1]] = value
    write_json(folder / name, content)


def _spoil_file(name: str, spoil: Callable[[bytes], bytes] | None, folder: Path) -> None:
    path = folder / name
    if spoil is None:
        path.unlink()
    else:
        path.write_bytes(spoil(path.read_bytes()))


FILES: dict[str, Callable[[bytes], bytes] | None] = {
    "missing": None,
    "empty": lambda _: b"",
    "cut": lambda content: content[: len(content) // 2],
    "of noise": lambda content: random.Random(len(content)).randbytes(999),
}
