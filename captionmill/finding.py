"""The doctor's findings, and how a check runs; knows no check."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "note", "do"]
"""ok: as it should be; note: good to know, nothing to do; do: something to do."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor."""

    subject: str
    state: State
    found: str
    remedy: str | None = None
    """What to do, or what would be gained by it."""

    def as_fields(self) -> dict[str, Any]:
        return asdict(self)


def ok(subject: str, found: str) -> Finding:
    return Finding(subject, "ok", found)


def note(subject: str, found: str, remedy: str | None = None) -> Finding:
    return Finding(subject, "note", found, remedy)


def to_do(subject: str, found: str, remedy: str) -> Finding:
    return Finding(subject, "do", found, remedy)


def careful(title: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of a check; an exception in it becomes a finding."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - other checks go on
        yield to_do(
            title,
            f"this check itself failed ({type(error).__name__}: {error})",
            "report it as a fault of ours",
        )


def size(count: float) -> str:
    """A number of bytes with a readable unit."""
    for unit, bytes_ in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= bytes_:
            return f"{count / bytes_:.1f} {unit}"
    return f"{count / 2**10:.1f} KiB"
