"""Keys of the result store and the script that writes a job's record exactly once.

All keys of a run share one hash tag. The record goes to the stream BEFORE the done bit is set: in the other
order a script that fails half-way loses a result for ever.
"""

from typing import Final

from pydantic import Field

from contract.base import Contract, Text

RECORD_FIELD: Final = "record"
"""The stream entry's only field: a JobResult as JSON."""


def results_key(run: str) -> str:
    """Stream of the run's records, one entry per job."""
    return f"captionmill:{{{run}}}:results"


def done_key(run: str) -> str:
    """Bitmap of the run's finished jobs, one bit per index."""
    return f"captionmill:{{{run}}}:done"


def attempts_key(run: str) -> str:
    """Hash of jobs that were begun and have no record, job index to how often."""
    return f"captionmill:{{{run}}}:attempts"


def holders_key(run: str) -> str:
    """Hash of jobs that were taken and have no record, job index to worker, or to SUSPECTED."""
    return f"captionmill:{{{run}}}:holders"


SUSPECTED: Final = "suspected"
"""Holder of a job that waits in the suspect queue."""
ISOLATED_ATTEMPTS: Final = 2
MOST_ATTEMPTS: Final = 1 + ISOLATED_ATTEMPTS
"""A job that was begun so often and has no record ends in the failure crashed_worker."""


def cancelled_key(run: str) -> str:
    """Exists while the run is cancelled: workers drop its jobs and write nothing."""
    return f"captionmill:{{{run}}}:cancelled"


def lease_key(run: str) -> str:
    """Which folder's processes drive the run now: JSON of a name and a path, for as long as they renew it."""
    return f"captionmill:{{{run}}}:lease"


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
    image_roots: tuple[Text, ...] = Field(
        default=(), description="folders it reads images from; bytes that are no characters are escaped"
    )


DEAD_LETTERS_KEY: Final = "captionmill:dead_letters"
"""List of messages that belong to no job and so can have no record: JSON of worker, reason and message."""

BEGIN: Final = """
if redis.call('GETBIT', KEYS[1], ARGV[1]) == 1 or redis.call('EXISTS', KEYS[2]) == 1 then
    redis.call('HDEL', KEYS[4], ARGV[1])
    return {0, ''}
end
local holder = redis.call('HGET', KEYS[4], ARGV[1]) or ''
local begun = tonumber(redis.call('HGET', KEYS[3], ARGV[1]) or 0)
if begun >= tonumber(ARGV[3]) then return {-begun, holder} end
redis.call('HSET', KEYS[4], ARGV[1], ARGV[2])
return {redis.call('HINCRBY', KEYS[3], ARGV[1], 1), holder}
"""
"""Counts an attempt before the job is touched. KEYS: begin_keys(). ARGV: index, worker, most attempts.

Returns the number of this attempt and who held the job before, or no one. 0: there is a record, or the run is
cancelled, and then nobody holds it. Below 0: it was begun so often already, and is not begun again.
"""


def begin_keys(run: str) -> list[str]:
    return [done_key(run), cancelled_key(run), attempts_key(run), holders_key(run)]


GIVE_BACK: Final = """
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
if ARGV[3] == '1' and redis.call('HINCRBY', KEYS[1], ARGV[1], -1) <= 0 then
    redis.call('HDEL', KEYS[1], ARGV[1])
end
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
"""
"""The worker holds the job no longer. KEYS: attempts, holders. ARGV: index, worker, 1 to undo an attempt.

The attempt first: a server without memory refuses that, and the worker is still the holder and tries again.
"""

WRITE_ONCE: Final = """
if redis.call('GETBIT', KEYS[2], ARGV[1]) == 1 or redis.call('EXISTS', KEYS[5]) == 1 then return 0 end
redis.call('XADD', KEYS[1], '*', 'record', ARGV[2])
redis.call('SETBIT', KEYS[2], ARGV[1], 1)
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('HDEL', KEYS[4], ARGV[1])
return 1
"""
"""KEYS: record_keys(). ARGV: index, record. Returns 1 if this call wrote the record, else 0.

It writes none of a cancelled run: nobody would ever collect it.
"""


def record_keys(run: str) -> list[str]:
    return [results_key(run), done_key(run), attempts_key(run), holders_key(run), cancelled_key(run)]
