"""`python -m tests.faults.producer_process ...`: the captionmill command with the broker's waits shortened.

With SHORT_DISK_BYTES none of its files grows beyond that size.
"""

import os
import resource

import tests.faults.short_waits  # noqa: F401 - before what takes the waits from the contract
from captionmill.cli import main

if __name__ == "__main__":
    if "SHORT_DISK_BYTES" in os.environ:
        most = int(os.environ["SHORT_DISK_BYTES"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    main()
