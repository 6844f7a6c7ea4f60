"""The ledger's tables; knows no statement that reads or writes them.

row       a row of the source as it was last submitted, and its progress
question  a row's rendered question, and its ask, which questions with equal answers share
ask       content key → its outcome, or the job that will bring it; kept for later submissions, in the order
          of sending, so that the changes of a batch of records are close together
job       a sent job: index in the run's done bitmap and stream, and whether its record has come
file      image file → its digest, so that unchanged files are not read again
output    output file → what the run folder wrote there, so that a person's change is not overwritten
unwritten   sink and row → why the output is not on disk
earlier   question that is asked again for a flag → the ask before, and the changed parameters
"""

from typing import Final

VERSION: Final = 3
ROW_COLUMNS: Final = """
    position INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    content TEXT NOT NULL,
    total INTEGER NOT NULL,
    fed INTEGER NOT NULL DEFAULT 0,
    open INTEGER NOT NULL DEFAULT 0,
    due INTEGER,
    seq INTEGER
"""
"""total: number of questions; fed: number of questions with a key; open: number of those without an outcome;
due: 1 if further questions can be fed; seq: place in the order of completion."""
SCHEMA: Final = f"""
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE row ({ROW_COLUMNS});
CREATE TABLE question (
    position INTEGER NOT NULL, number INTEGER NOT NULL, id TEXT NOT NULL, prompt TEXT NOT NULL,
    ask INTEGER NOT NULL, PRIMARY KEY (position, number)
) WITHOUT ROWID;
CREATE TABLE ask (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE,
    job INTEGER, question TEXT, outcome TEXT, code TEXT, model TEXT
);
CREATE TABLE job (idx INTEGER PRIMARY KEY, state INTEGER NOT NULL, message TEXT, upload TEXT);
CREATE TABLE file (
    path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, digest BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX question_ask ON question (ask);
CREATE INDEX ask_job ON ask (job) WHERE outcome IS NULL;
CREATE INDEX job_open ON job (state) WHERE state < 3;
"""
ROW_INDICES: Final = """
CREATE UNIQUE INDEX row_seq ON row (seq) WHERE seq IS NOT NULL;
CREATE INDEX row_due ON row (position) WHERE due IS NOT NULL;
CREATE INDEX row_new ON row (position) WHERE fed = 0 AND due IS NULL AND seq IS NULL;
CREATE INDEX row_unfed ON row (position) WHERE fed < total;
"""
OUTPUT: Final = "CREATE TABLE IF NOT EXISTS output (path BLOB PRIMARY KEY, known TEXT NOT NULL) WITHOUT ROWID"
UNWRITTEN: Final = (
    "CREATE TABLE IF NOT EXISTS unwritten (sink TEXT NOT NULL, position INTEGER NOT NULL, "
    "at_end INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (sink, position)) WITHOUT ROWID"
)
EARLIER: Final = (
    "CREATE TABLE IF NOT EXISTS earlier (position INTEGER NOT NULL, number INTEGER NOT NULL, "
    "ask INTEGER NOT NULL, changes TEXT NOT NULL, PRIMARY KEY (position, number)) WITHOUT ROWID"
)
"""Tables that folders of earlier releases get when they are opened; readers do without them."""
GOT: Final = "CREATE TEMP TABLE got (job INTEGER, question TEXT, outcome TEXT, code TEXT, model TEXT)"
TOUCHED: Final = "CREATE TEMP TABLE touched (position INTEGER PRIMARY KEY, n INTEGER)"
"""Temporary tables for the outcomes of new records, and for the rows of these."""
