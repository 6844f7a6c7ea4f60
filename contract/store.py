"""Keys of the result store and the script that writes a job's record exactly once.

All keys of a run share one hash tag. The record goes to the stream BEFORE the done bit is set: in the other
order a script that fails half-way loses a result for ever.
"""

from typing import Final

from pydantic import Field

from contract.base import Contract

RECORD_FIELD: Final = "record"
"""The stream entry's only field: a JobResult as JSON."""


def results_key(run: str) -> str:
    """Stream of the run's records, one entry per job."""
    return f"captionmill:{{{run}}}:results"


def done_key(run: str) -> str:
    """Bitmap of the run's finished jobs, one bit per index."""
    return f"captionmill:{{{run}}}:done"


def attempts_key(run: str) -> str:
    """Hash of attempts in flight, job index to count."""
    return f"captionmill:{{{run}}}:attempts"


def cancelled_key(run: str) -> str:
    """Exists while the run is cancelled: workers drop its jobs and write nothing."""
    return f"captionmill:{{{run}}}:cancelled"


def image_key(run: str, sha256: str) -> str:
    """Bytes of an image that the producer has put there; it deletes them when no open job needs them."""
    return f"captionmill:{{{run}}}:image:{sha256}"


def tokens_key(run: str, index: int) -> str:
    """Stream of a job with `stream`: entries with TOKENS_FIELD, and one with END_FIELD after the last.

    The worker lets it expire after TOKENS_KEPT_S.
    """
    return f"captionmill:{{{run}}}:tokens:{index}"


TOKENS_FIELD: Final = "text"
"""The answer's text so far since the last entry, UTF-8. All entries together are the answer's text."""
END_FIELD: Final = "end"
TOKENS_KEPT_S: Final = 300


def stop_key(run: str, index: int) -> str:
    """Set by whoever waits for a job with `stream`: its generation ends at the next step."""
    return f"captionmill:{{{run}}}:stop:{index}"


WORKERS_KEY: Final = "captionmill:workers"
"""Hash of worker → WorkerRecord as JSON. A record older than WORKER_SILENT_S is of a dead worker."""
WORKER_REPORT_S: Final = 5.0
WORKER_SILENT_S: Final = 20.0


class WorkerRecord(Contract):
    """What a live worker tells of itself every WORKER_REPORT_S."""

    worker: str = Field(description="host and process id")
    model: str = Field(description="model id its answers will carry")
    device: str
    slots: int = Field(ge=1, description="bulk jobs it takes at once")
    time: float = Field(description="Unix time in seconds of this report")
    started: float = Field(description="Unix time in seconds")


DEAD_LETTERS_KEY: Final = "captionmill:dead_letters"
"""List of messages that belong to no job and so can have no record: JSON of worker, reason and message."""

WRITE_ONCE: Final = """
if redis.call('GETBIT', KEYS[2], ARGV[1]) == 1 then return 0 end
redis.call('XADD', KEYS[1], '*', 'record', ARGV[2])
redis.call('SETBIT', KEYS[2], ARGV[1], 1)
redis.call('HDEL', KEYS[3], ARGV[1])
return 1
"""
"""KEYS: results, done, attempts. ARGV: index, record. Returns 1 if this call wrote the record, else 0."""
