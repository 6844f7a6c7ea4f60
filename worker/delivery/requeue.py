"""Why a job goes back to the queue as good as it came; knows nothing of jobs."""


class Requeue(Exception):  # noqa: N818 - no error: the job is as good as before
    """The worker cannot or will not begin this job now, as when it drains: another worker shall take it."""


class StoreAwayError(Requeue):
    """The result store cannot be read."""


class Cancelled(Exception):  # noqa: N818 - no error: its run was cancelled while it was generated
    """Nobody wants the job's record any more."""
