"""Events of the engine's work, as numbers with units; knows not who counts them."""

from typing import Protocol


class EngineObserver(Protocol):
    """Called in the engine's thread, which waits meanwhile: calls must be quick and raise nothing."""

    def stepped(self, seconds: float, rows: int, *, prefill: bool) -> None:
        """The runner took `seconds` for `rows` sequences; `prefill` if one had more than one position."""
        ...

    def first_token(self, seconds: float) -> None:
        """A request has its first token, `seconds` after it was submitted."""
        ...
