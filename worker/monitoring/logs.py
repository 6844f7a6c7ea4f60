"""Sets up the worker's log: a line per event, with its job and without secrets; knows no Celery.

Passwords, and the queries of URLs, which may be signatures, are taken out of the finished line. So it does
not matter who wrote them, nor whether they stood in a message or in a traceback.
"""

import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Literal, Protocol
from urllib.parse import quote, unquote, urlsplit

LogFormat = Literal["text", "json"]

TEXT: Final = "%(asctime)s %(levelname)s %(threadName)s: %(message)s"
HIDDEN: Final = "**"
USER_OF_URL: Final = re.compile(r"(?<=://)[^\s/@'\"]+(?=@)")
QUERY_OF_URL: Final = re.compile(r"(?<=://)([^\s?'\"<>]+)\?[^\s'\"<>]+")

_about: ContextVar[tuple[str, int] | None] = ContextVar("about", default=None)


@contextmanager
def about_job(run: str, index: int) -> Iterator[None]:
    """Name the job in every line that this thread logs in the block."""
    before = _about.set((run, index))
    try:
        yield
    finally:
        _about.reset(before)


class Named(Protocol):
    """Has the run and the index of a job."""

    @property
    def run(self) -> str: ...
    @property
    def index(self) -> int: ...


def about(job: Named) -> dict[str, object]:
    """`extra` of one line about a job, for a thread that works on none."""
    return {"about": (job.run, job.index)}


class Redaction:
    """Takes secrets out of text: the password of `url`, users and passwords of URLs, and URLs' queries."""

    def __init__(self, url: str) -> None:
        given = urlsplit(url).password or ""
        plain = unquote(given)
        forms = {given, plain, quote(plain, safe="")} - {""}
        self._passwords = sorted(forms, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for password in self._passwords:
            text = text.replace(password, HIDDEN)
        return QUERY_OF_URL.sub(rf"\1?{HIDDEN}", USER_OF_URL.sub(HIDDEN, text))


class TextLines(logging.Formatter):
    """Writes a line as people read it, the job at its end."""

    def __init__(self, redact: Redaction) -> None:
        super().__init__(TEXT)
        self._redact = redact

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        line = super().formatMessage(record)
        job = _job_of(record)
        return f"{line} [run {job[0]} job {job[1]}]" if job else line

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


class JsonLines(logging.Formatter):
    """Writes a JSON object per line: time, level, logger, worker, message; job, task and error if any."""

    def __init__(self, redact: Redaction, worker: str) -> None:
        super().__init__()
        self._redact = redact
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": record.created,
            "level": record.levelname,
            "logger": record.name,
            "thread": record.threadName,
            "worker": self._worker,
            "message": self._redact(record.getMessage()),
        }
        if job := _job_of(record):
            line |= {"run": job[0], "job": job[1]}
        if isinstance(record.args, dict) and "id" in record.args:
            line["task"] = str(record.args["id"])
        if record.exc_info:
            line["error"] = self._redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def set_up_logs(
    log_format: LogFormat, level: int | str, worker: str, secret_url: str, path: str | None = None
) -> None:
    """Write this process's log, uncaught exceptions included, to stderr or to the file `path`.

    The password of `secret_url` is taken out everywhere.
    """
    redact = Redaction(secret_url)
    handler = logging.StreamHandler(sys.stderr) if path is None else logging.FileHandler(path)
    handler.setFormatter(JsonLines(redact, worker) if log_format == "json" else TextLines(redact))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # They log each request to a stranger's server with its whole URL.
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    sys.excepthook = lambda kind, error, trace: root.critical(
        "the process ends of an exception", exc_info=(kind, error, trace)
    )
    threading.excepthook = lambda uncaught: root.critical(
        "a thread ended of an exception",
        exc_info=(uncaught.exc_type, uncaught.exc_value or uncaught.exc_type(), uncaught.exc_traceback),
    )


def _job_of(record: logging.LogRecord) -> tuple[str, int] | None:
    """The job of a line: the line's own, else the thread's."""
    return getattr(record, "about", None) or _about.get()
