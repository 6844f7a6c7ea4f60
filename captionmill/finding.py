"""What the doctor finds, and a check that cannot fail: what goes wrong in one is a finding, too."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "note", "do"]
"""Well; good to know, and nothing has to be done; something has to be done."""


@dataclass(frozen=True)
class Finding:
    """A line of the doctor's."""

    subject: str
    state: State
    found: str
    remedy: str | None = None
    """What to do, where there is something to do or to gain."""

    def as_fields(self) -> dict[str, Any]:
        return asdict(self)


def ok(subject: str, found: str) -> Finding:
    return Finding(subject, "ok", found)


def note(subject: str, found: str, remedy: str | None = None) -> Finding:
    return Finding(subject, "note", found, remedy)


def to_do(subject: str, found: str, remedy: str) -> Finding:
    return Finding(subject, "do", found, remedy)


def careful(title: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What a check finds; one that breaks ends in a line that says so."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - the other checks go on
        yield to_do(
            title,
            f"this check itself failed ({type(error).__name__}: {error})",
            "report it as a fault of ours",
        )


def size(count: float) -> str:
    """Bytes for people."""
    for unit, bytes_ in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= bytes_:
            return f"{count / bytes_:.1f} {unit}"
    return f"{count / 2**10:.1f} KiB"
