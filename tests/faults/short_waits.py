"""Shortens the broker's waits of many minutes for a process of the fault tests; knows nothing of its work.

Imported before whatever takes the waits from contract.broker. Without SHORT_VISIBILITY_S nothing changes.
"""

import os
from typing import Final

from contract import broker

VARIABLE: Final = "SHORT_VISIBILITY_S"
RESTORE_EVERY_S: Final = 1


def shorten() -> None:
    seconds = os.environ.get(VARIABLE)
    if seconds is None:
        return
    vars(broker)["VISIBILITY_TIMEOUT_S"] = int(seconds)
    broker.TRANSPORT_OPTIONS["visibility_timeout"] = int(seconds)
    broker.TRANSPORT_OPTIONS["unacked_restore_interval"] = RESTORE_EVERY_S


shorten()
