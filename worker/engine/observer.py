"""What the engine tells of its work as it goes: numbers with units; it does not know who counts them."""

from typing import Protocol


class EngineObserver(Protocol):
    """Told in the engine's thread, which waits meanwhile: calls must be quick and raise nothing."""

    def stepped(self, seconds: float, rows: int, *, prefill: bool) -> None:
        """The runner took `seconds` for `rows` sequences; `prefill`: more than one position of any."""
        ...

    def first_token(self, seconds: float) -> None:
        """A request has its first token, `seconds` after it was submitted."""
        ...
