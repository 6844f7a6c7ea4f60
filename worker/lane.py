"""The three ways by which messages reach a worker; knows no queue and no job."""

from enum import StrEnum


class Lane(StrEnum):
    """The queue that a message came from. It decides what the jobs in it may do to others."""

    BULK = "bulk"
    INTERACTIVE = "interactive"
    """Somebody waits for the answer: the job goes before those of the other lanes."""
    SUSPECT = "suspect"
    """The job may have ended a worker: it is answered with nothing beside it, its image decoded elsewhere."""
