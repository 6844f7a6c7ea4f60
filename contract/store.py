"""Keys of the result store and the script that writes a job's record exactly once.

All keys of a run share one hash tag. The record goes to the stream BEFORE the done bit is set: in the other
order a script that fails half-way loses a result for ever.
"""

from typing import Final

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
