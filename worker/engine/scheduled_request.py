"""A request on its way through the engine, and its part in one step; knows no runner and no other request."""

from dataclasses import dataclass
from enum import Enum, auto

from worker.engine.request import IntArray, Request
from worker.engine.runner import SequenceId
from worker.engine.search import Search, search_for


class Status(Enum):
    """State of a request in the engine."""

    WAITING = auto()
    """not admitted, without a sequence"""
    PREFILLING = auto()
    """in the batch, with one sequence that lacks positions of the prompt"""
    DECODING = auto()
    """in the batch, with a token to append to each sequence"""
    ENDED = auto()
    """out of the batch; its sequences are kept for waiting requests that may fork them"""
    RELEASED = auto()
    """gone, with its sequences released"""


class ScheduledRequest:
    """A request with its status, its search, its sequences and the tokens that these append next."""

    def __init__(self, request: Request, arrival: int) -> None:
        self.request = request
        self.arrival = arrival
        self.status = Status.WAITING
        self.search: Search = search_for(request)
        self.sequences: list[SequenceId] = []
        self.prompt_done = 0
        """Number of the prompt's positions in its one sequence."""
        self.token_ids: IntArray | None = None
        """(row,) int64 to append next, one to each sequence; None before the prompt is complete"""
        self.appended = 0
        """Number of tokens appended to each sequence behind the prompt."""
        self.overtaken = 0
        """Number of later requests that were admitted before it."""

    @property
    def is_running(self) -> bool:
        """Whether it is in the batch."""
        return self.status in (Status.PREFILLING, Status.DECODING)

    @property
    def next_position(self) -> IntArray | None:
        """(1,) position id of the token to append next; None where the runner counts."""
        positions = self.request.positions
        return None if positions is None else positions[-1:] + 1 + self.appended

    @property
    def prompt_left(self) -> int:
        """Number of the prompt's positions still to be computed."""
        return len(self.request.inputs_embeds) - self.prompt_done

    def count(self, prompt: slice | None) -> None:
        """Count what a step appended: these positions of the prompt, or a token to each row."""
        if prompt is None:
            self.appended += 1
            return
        self.prompt_done = prompt.stop
        if not self.prompt_left:
            self.status = Status.DECODING


@dataclass(frozen=True, eq=False)
class StepItem:
    """What one request appends in a step: positions of its prompt, or a token to each of its rows."""

    scheduled: ScheduledRequest
    prompt: slice | None = None

    @property
    def rows(self) -> int:
        """Number of logit rows it produces."""
        return len(self.scheduled.sequences)
