"""Stores a run's rows, questions, jobs and answers in SQLite; knows no Redis and no files.

schema   the tables and their meaning
stored   the values in their columns
file     the database: opened, checked, one transaction at a time
reader   reads for status, outputs and pages
ledger   reads and writes for planning, feeding and collecting
         new_rows, jobs, asks, retries, output_state, state: its parts, each for its own tables

Changes that belong together are one transaction, durable before anything outside depends on them. Two
processes may have a ledger open: one feeds and one collects.
"""

from producer.database import LedgerError
from producer.ledger.asks import AskState, Result
from producer.ledger.file import LEDGER, require_folder
from producer.ledger.jobs import JobState, NewJob, OpenJob
from producer.ledger.ledger import FedRow, FileDigest, Ledger, LedgerQuestion, NextRow
from producer.ledger.new_rows import NewRows
from producer.ledger.reader import LedgerReader
from producer.ledger.stored import OUTCOME, OUTPUT_KNOWN, OutputKnown

__all__ = [
    "LEDGER",
    "OUTCOME",
    "OUTPUT_KNOWN",
    "AskState",
    "FedRow",
    "FileDigest",
    "JobState",
    "Ledger",
    "LedgerError",
    "LedgerQuestion",
    "LedgerReader",
    "NewJob",
    "NewRows",
    "NextRow",
    "OpenJob",
    "OutputKnown",
    "Result",
    "require_folder",
]
