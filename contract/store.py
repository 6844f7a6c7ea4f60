"""Keys of the result store, and the scripts that change a job's state; opens no connection.

All keys of a run share one hash tag. A record goes into the stream BEFORE its done bit is set. In the other
order, a script that fails in between would lose the result.
"""

from typing import Final

from pydantic import Field

from contract.base import Contract, Text

RECORD_FIELD: Final = "record"
"""The only field of a stream entry: a JobResult as JSON."""


def results_key(run: str) -> str:
    """Stream of the run's records, one entry per job."""
    return f"captionmill:{{{run}}}:results"


def done_key(run: str) -> str:
    """Bitmap of the run's finished jobs, one bit per index."""
    return f"captionmill:{{{run}}}:done"


def attempts_key(run: str) -> str:
    """Hash of job index → attempts so far, for jobs without a record."""
    return f"captionmill:{{{run}}}:attempts"


def holders_key(run: str) -> str:
    """Hash of job index → the worker that holds it, or SUSPECTED, for jobs without a record."""
    return f"captionmill:{{{run}}}:holders"


SUSPECTED: Final = "suspected"
"""Holder of a job that waits in the suspect queue."""
ISOLATED_ATTEMPTS: Final = 2
"""Attempts in the suspect queue, after the first attempt."""
MOST_ATTEMPTS: Final = 1 + ISOLATED_ATTEMPTS
"""Attempts of a job. One that has no record after them fails with crashed_worker."""


def cancelled_key(run: str) -> str:
    """Exists while the run is cancelled. Workers then drop its jobs and write no record."""
    return f"captionmill:{{{run}}}:cancelled"


def lease_key(run: str) -> str:
    """The run folder whose processes drive the run, as JSON of name and path; it expires unless renewed."""
    return f"captionmill:{{{run}}}:lease"


def image_key(run: str, sha256: str) -> str:
    """Bytes of an image that the producer uploaded; it deletes them when no open job needs them."""
    return f"captionmill:{{{run}}}:image:{sha256}"


def tokens_key(run: str, index: int) -> str:
    """Stream of the text of a job with `stream`: entries with TOKENS_FIELD, then one with END_FIELD.

    It expires after TOKENS_KEPT_S.
    """
    return f"captionmill:{{{run}}}:tokens:{index}"


TOKENS_FIELD: Final = "text"
"""Text since the last entry, in UTF-8. All entries together are the answer's text."""
END_FIELD: Final = "end"
TOKENS_KEPT_S: Final = 300


def stop_key(run: str, index: int) -> str:
    """Set to end the generation of a job with `stream` at its next step."""
    return f"captionmill:{{{run}}}:stop:{index}"


WORKERS_KEY: Final = "captionmill:workers"
"""Hash of worker → WorkerRecord as JSON."""
WORKER_REPORT_S: Final = 5.0
"""Seconds between two records of a worker."""
WORKER_SILENT_S: Final = 20.0
"""Age in seconds at which a record counts as a dead worker's."""


class WorkerRecord(Contract):
    """What a live worker reports about itself."""

    worker: str = Field(description="host and process id")
    model: str = Field(description="model id its answers will carry")
    device: str
    slots: int = Field(ge=1, description="bulk jobs it takes at once")
    time: float = Field(description="Unix time in seconds of this report")
    started: float = Field(description="Unix time in seconds")
    image_roots: tuple[Text, ...] = Field(
        default=(), description="folders it reads images from; undecodable bytes are escaped"
    )


DEAD_LETTERS_KEY: Final = "captionmill:dead_letters"
"""List of messages that contain no readable job, each as JSON of worker, reason and message."""

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
"""Counts an attempt before a job is begun. KEYS: begin_keys(). ARGV: index, worker, most attempts.

Returns the attempt's number, and who held the job before ("" for nobody). The number is 0 if the job has a
record or its run is cancelled, and minus the attempts so far if there were too many; it is not begun then.
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
"""Ends a worker's hold on a job. KEYS: attempts, holders. ARGV: index, worker, 1 to undo the attempt.

The attempt comes first: a server without memory refuses it, and the worker is still the holder and can retry.
"""

WRITE_ONCE: Final = """
if redis.call('GETBIT', KEYS[2], ARGV[1]) == 1 or redis.call('EXISTS', KEYS[5]) == 1 then return 0 end
redis.call('XADD', KEYS[1], '*', 'record', ARGV[2])
redis.call('SETBIT', KEYS[2], ARGV[1], 1)
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('HDEL', KEYS[4], ARGV[1])
return 1
"""
"""Writes a job's record. KEYS: record_keys(). ARGV: index, record. Returns 1 if this call wrote it, else 0.

It writes no record of a cancelled run, which nobody would collect.
"""


def record_keys(run: str) -> list[str]:
    return [results_key(run), done_key(run), attempts_key(run), holders_key(run), cancelled_key(run)]
