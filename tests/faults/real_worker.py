"""`celery -A tests.faults.real_worker worker`: the real worker with the broker's waits shortened."""

import tests.faults.short_waits  # noqa: F401 - before what takes the waits from the contract
from worker.app import app

__all__ = ["app"]
