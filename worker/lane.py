"""The three queues by which messages reach a worker, as values; knows no broker and no job."""

from enum import StrEnum


class Lane(StrEnum):
    """The queue that a message came from. It decides which other jobs the message's jobs go before."""

    BULK = "bulk"
    INTERACTIVE = "interactive"
    """Somebody waits for the answer: the job goes before jobs of the other lanes."""
    SUSPECT = "suspect"
    """The job may have ended a worker: it is answered alone, its image decoded in another process."""
